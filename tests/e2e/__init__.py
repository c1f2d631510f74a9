"""Both services and the command as a user has them: real processes, real files, real signals."""
