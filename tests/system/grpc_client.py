"""A small client of the gRPC service, with the messages that the server was built from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.grpc_protocol import methods
from tests.inference_protocol import files
from tests.redis_server import eventually, free_port
from tests.system.client import Client
from tests.system.stack import START_S, Program, Stack

from imageserve.grpc_server.messages import SERVICE


def infer_request(*pictures: bytes, classes: int = 1, **fields: Any) -> Any:
    """Return a ModelInferRequest for pictures; ``classes`` 0 asks for all probabilities."""
    request = methods()["ModelInfer"].request(**fields)
    request.inputs.add(name="image", datatype="BYTES", shape=[len(pictures), 1])
    request.raw_input_contents.append(files(*pictures))
    output = request.outputs.add(name="probabilities")
    if classes:
        output.parameters["classification"].int64_param = classes
    return request


def classes_of(response: Any) -> list[tuple[float, int, str]]:
    """Return probability, number and label of each class of an answer."""
    raw, found = response.raw_output_contents[0], []
    while raw:
        length = int.from_bytes(raw[:4], "little")
        value, index, label = raw[4 : 4 + length].decode().split(":", 2)
        found.append((float(value), int(index), label))
        raw = raw[4 + length :]
    return found


def labels_of(response: Any) -> list[str]:
    return [label for _, _, label in classes_of(response)]


class Refused(Exception):
    """A call ended with another status than OK."""

    def __init__(self, error: Any) -> None:
        super().__init__(f"{error.code().name}: {error.details()}")
        self.status = error.code().name
        self.message = error.details()
        self.metadata: Mapping[str, str] = dict(error.trailing_metadata() or ())

    @property
    def code(self) -> str:
        return self.metadata.get("error-code", "")


class Caller:
    """A channel to the server."""

    def __init__(self, port: int) -> None:
        # A channel of its own, not one that another caller of this process has open.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.port = port
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
        self.metadata: Mapping[str, str] = {}
        """The trailing metadata of the last call."""

    def method(self, name: str) -> Any:
        messages = methods()[name]
        return self.channel.unary_unary(
            f"/{SERVICE}/{name}",
            request_serializer=messages.request.SerializeToString,
            response_deserializer=messages.response.FromString,
        )

    def call(
        self,
        name: str,
        request: Any = None,
        timeout: float = 20.0,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> Any:
        """Call a method. Raises Refused."""
        request = methods()[name].request() if request is None else request
        try:
            response, call = self.method(name).with_call(request, timeout, metadata)
        except grpc.RpcError as error:
            raise Refused(error) from error
        self.metadata = dict(call.trailing_metadata())
        return response

    def infer(self, *pictures: bytes, timeout: float = 20.0, **fields: Any) -> Any:
        return self.call("ModelInfer", infer_request(*pictures, **fields), timeout)


def health_of(caller: Caller, service: str = "") -> str:
    """Return what the health service says of the server, or of one service."""
    check = health_pb2_grpc.HealthStub(caller.channel).Check
    states = health_pb2.HealthCheckResponse.ServingStatus
    return str(states.Name(check(health_pb2.HealthCheckRequest(service=service)).status))


@contextmanager
def serving(stack: Stack, **env: str) -> Iterator[tuple[Program, Caller]]:
    """Start `imageserve grpc` beside a stack, and wait until it is ready."""
    port, metrics_port = free_port(), free_port()
    # With a long drain its connections last as long as a test.
    own = {"GRPC_PORT": str(port), "METRICS_PORT": str(metrics_port), "DRAIN_S": "600", **env}
    program = stack.run(f"grpc-{port}", "grpc", **own)
    probes = Client(metrics_port)

    def ready() -> bool:
        assert program.alive, program.output()
        return probes.status_of("/readyz") == 200

    eventually(ready, "the gRPC server is ready", START_S)
    caller = Caller(port)
    eventually(lambda: health_of(caller) == "SERVING", "it says so", START_S)
    try:
        yield program, caller
    finally:
        caller.channel.close()
        program.end()
