"""What any gRPC server built on Handclasp needs: who calls, errors as statuses, TLS, files with secrets."""
