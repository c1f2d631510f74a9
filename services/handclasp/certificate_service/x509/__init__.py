"""Keys, requests and certificates: pure functions over `cryptography`, without I/O and without a clock of their own."""
