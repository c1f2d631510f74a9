"""The gRPC side: who may call, and protobuf to domain and back. What is done is done in `use_cases`."""
