"""The Open Inference Protocol, version 2, whatever carries it: no JSON text, no HTTP, no gRPC."""
