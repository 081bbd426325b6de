"""The server of the Open Inference Protocol over gRPC, a process of its own."""
