"""What the service is about: values and pure decisions. Imports neither grpc, protobuf nor SQLAlchemy."""
