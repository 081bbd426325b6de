"""The messages of gRPC's service, compiled where a checkout was never installed."""

from imageserve.grpc_server.build import HERE, PROTOCOL, compile_protocol
from imageserve.grpc_server.messages import COMPILED, methods

__all__ = ["methods"]

if not COMPILED.is_file() or COMPILED.stat().st_mtime < (HERE / PROTOCOL).stat().st_mtime:
    compile_protocol()
