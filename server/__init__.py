"""The service: REST and gRPC transports, the pipeline, the batching engine and its backends. No torch."""
