"""The Open Inference Protocol over gRPC: a real server beside a real Redis and real workers."""

import asyncio
import itertools
import math
import signal
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from tests.grpc_protocol import methods
from tests.promtool import promtool
from tests.system.client import Client
from tests.system.conftest import MakeStack
from tests.system.grpc_client import (
    Caller,
    Refused,
    classes_of,
    health_of,
    infer_request,
    labels_of,
    serving,
)
from tests.system.samples import sample, samples
from tests.system.stack import Program, Stack, running

from imageserve.grpc_server.messages import SERVICE

KEY, SLOW_KEY = "a-key-of-sixteen-signs", "a-key-of-the-background"
SLOTS = 24
STAND_IN_MS = "stand-in:image_ms=0,batch_ms"


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, redis_program: str
) -> Iterator[tuple[Stack, Program, Caller]]:
    """A stack that no test of this module breaks, and a server with few slots."""
    directory = tmp_path_factory.mktemp("grpc")
    with running(directory, redis_program, WEB_PROCESSES="1", MAX_IMAGES="4") as stack:
        own = {"WEB_SLOTS": str(SLOTS), "UPLOAD_TIMEOUT_S": "1", "MAX_BODY_BYTES": "2MiB"}
        with serving(stack, **own, MAX_IMAGE_BYTES="1MiB") as (program, caller):
            yield stack, program, caller


@pytest.fixture
def stack(shared: tuple[Stack, Program, Caller]) -> Stack:
    return shared[0]


@pytest.fixture
def server(shared: tuple[Stack, Program, Caller]) -> Program:
    return shared[1]


@pytest.fixture
def caller(shared: tuple[Stack, Program, Caller]) -> Caller:
    return shared[2]


# -- answers --------------------------------------------------------------------------------------


def test_labels_and_probabilities_are_those_of_predict(stack: Stack, caller: Caller) -> None:
    for picture in [sample(1), sample(2, "PNG"), sample(3, "WEBP")]:
        by_http = stack.http.predict(picture.data, "?top=3").json["predictions"]
        by_grpc = classes_of(caller.infer(picture.data, classes=3))

        assert [label for _, _, label in by_grpc] == [each["label"] for each in by_http]
        assert by_grpc[0][2] == picture.label
        for (probability, _, _), each in zip(by_grpc, by_http, strict=True):
            assert math.isclose(probability, each["probability"], abs_tol=1e-6)


def test_all_probabilities_are_the_scores_of_predict(stack: Stack, caller: Caller) -> None:
    picture = sample(4)
    scores = stack.http.predict(
        picture.data, "?output=scores", Accept="application/octet-stream"
    ).body
    response = caller.infer(picture.data, classes=0, id="its own")

    (output,) = response.outputs
    assert (output.name, output.datatype, list(output.shape)) == (
        "probabilities",
        "FP32",
        [1, 1000],
    )
    assert response.raw_output_contents[0] == scores
    assert (response.model_name, response.id) == ("stand-in", "its own")
    # Contents that are not raw are answered in the same way.
    typed = infer_request(picture.data, classes=0)
    del typed.raw_input_contents[:]
    typed.inputs[0].contents.bytes_contents.append(picture.data)
    (output,) = caller.call("ModelInfer", typed).outputs
    assert struct.pack("<1000f", *output.contents.fp32_contents) == scores


def test_several_pictures_are_answered_in_order(caller: Caller) -> None:
    pictures = samples(4, first=10)

    response = caller.infer(*(each.data for each in pictures))

    assert labels_of(response) == [each.label for each in pictures]
    assert list(response.outputs[0].shape) == [4, 1]


def test_what_is_served(stack: Stack, caller: Caller) -> None:
    assert caller.call("ServerLive").live
    assert caller.call("ServerReady").ready
    server = caller.call("ServerMetadata")
    assert server.name == "imageserve"
    assert {"classification", "schedule_policy"} <= set(server.extensions)
    assert "statistics" not in server.extensions, "the service has no method for it"

    asked = methods()["ModelReady"].request
    assert caller.call("ModelReady", asked(name="stand-in")).ready
    model = caller.call("ModelMetadata", methods()["ModelMetadata"].request(name="stand-in"))
    tensors = {each.name: (each.datatype, list(each.shape)) for each in model.inputs}
    assert tensors == {"image": ("BYTES", [-1, 1]), "pixels": ("UINT8", [-1, 64, 64, 3])}
    outputs = {each.name: (each.datatype, list(each.shape)) for each in model.outputs}
    assert outputs["probabilities"] == ("FP32", [-1, 1000])
    with pytest.raises(Refused) as refused:
        caller.call("ModelReady", asked(name="nobody"))
    assert (refused.value.status, refused.value.code) == ("NOT_FOUND", "unknown_model")


def test_health_checks_of_kubernetes(caller: Caller) -> None:
    assert [health_of(caller, service) for service in ("", SERVICE)] == ["SERVING"] * 2


# -- errors ---------------------------------------------------------------------------------------


def refusal(caller: Caller, *args: object, **kwargs: object) -> Refused:
    with pytest.raises(Refused) as refused:
        caller.call(*args, **kwargs)  # type: ignore[arg-type]
    return refused.value


def test_errors_have_a_status_a_code_and_the_id_of_the_request(caller: Caller) -> None:
    error = refusal(
        caller, "ModelInfer", infer_request(b"no picture"), metadata=(("x-request-id", "mine"),)
    )
    assert (error.status, error.code) == ("INVALID_ARGUMENT", "not_an_image")
    assert error.metadata["x-request-id"] == "mine"

    wrong = infer_request(sample(1).data)
    wrong.inputs[0].name = "picture"
    error = refusal(caller, "ModelInfer", wrong)
    assert (error.status, error.message) == (
        "INVALID_ARGUMENT",
        "there is no input picture; the inputs are image, pixels",
    )
    error = refusal(caller, "ModelInfer", infer_request(sample(1).data, model_name="nobody"))
    assert (error.status, error.code) == ("NOT_FOUND", "unknown_model")
    error = refusal(caller, "ModelInfer", infer_request(sample(1).data, model_version="7"))
    assert error.status == "NOT_FOUND"
    error = refusal(caller, "ModelInfer", infer_request(*[sample(1).data] * 5))
    assert error.code == "too_many_images"
    error = refusal(caller, "ModelInfer", infer_request(bytes(2**20 + 1)))
    assert (error.status, error.code) == ("INVALID_ARGUMENT", "image_too_large")
    error = refusal(caller, "ModelInfer", infer_request(sample(1).data, b"x"))
    assert (error.code, error.message[:10]) == ("not_an_image", "picture 1:")


def test_what_is_no_message_is_refused_and_never_a_failure(server: Program, caller: Caller) -> None:
    path = f"/{SERVICE}/ModelInfer"
    garbage = caller.channel.unary_unary(path)
    nothing = caller.channel.stream_unary(path)
    unknown = caller.channel.unary_unary(f"/{SERVICE}/RepositoryIndex")
    statuses = []

    calls: list[Callable[[], object]] = [
        lambda: garbage(b"\xff\xff\xff garbage"),
        lambda: nothing(iter([])),
        lambda: unknown(b""),
        lambda: garbage(bytes(2**21 + 1)),
        # It would become large.
        lambda: garbage(bytes(2**20), compression=grpc.Compression.Gzip),
    ]
    for call in calls:
        with pytest.raises(grpc.RpcError) as refused:
            call()
        statuses.append(refused.value.code().name)

    assert statuses == [
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "UNIMPLEMENTED",
        "RESOURCE_EXHAUSTED",
        "UNIMPLEMENTED",
    ]
    assert caller.infer(sample(1).data)
    assert not [line for line in server.lines() if line["level"] in ("error", "critical")]


def silence() -> Iterator[bytes]:
    """A message that does not come for long."""
    time.sleep(5)
    yield b""


def test_a_message_that_does_not_come_is_not_waited_for(caller: Caller) -> None:
    call = caller.channel.stream_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as refused:
        call(silence(), timeout=10)

    assert refused.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive within 1 seconds" in refused.value.details()


# -- deadlines, hang-ups, slots -------------------------------------------------------------------


def test_prometheus_takes_the_metrics_without_a_remark(server: Program, caller: Caller) -> None:
    assert labels_of(caller.infer(sample(1).data)) == [sample(1).label]

    text = Client(server.metrics_port).get("/metrics").text

    assert 'imageserve_requests_total{code="",endpoint="infer",status="200"}' in text
    assert promtool("check", "metrics", text=text) == ""


@pytest.fixture
def asleep(stack: Stack) -> Iterator[None]:
    """While a test runs, the worker takes no job."""
    stack.workers[0].pause()
    yield
    stack.workers[0].resume()
    stack.wait_for(stack.idle, "all is done")


@pytest.mark.usefixtures("asleep")
def test_a_call_that_is_cancelled_leaves_the_queue(
    stack: Stack, server: Program, caller: Caller
) -> None:
    call = caller.method("ModelInfer").future(infer_request(sample(1).data))
    stack.wait_for(lambda: stack.names("p"), "its picture is queued")

    call.cancel()

    stack.wait_for(lambda: not stack.names("p"), "its pixels are gone", 5)
    stack.wait_for(
        lambda: (
            [each["code"] for each in server.lines("request") if each.get("code")][-1:]
            == ["client_gone"]
        ),
        "it is logged",
    )


@pytest.mark.usefixtures("asleep")
def test_the_deadline_of_a_call_is_that_of_its_picture(stack: Stack, caller: Caller) -> None:
    call = caller.method("ModelInfer").future(infer_request(sample(1).data), timeout=8)
    stack.wait_for(lambda: stack.names("p"), "its picture is queued")
    (pixels,) = stack.names("p")
    assert 0 < stack.db.pttl(pixels) < 15_000, "the queue knows the deadline too"
    call.cancel()

    error = refusal(caller, "ModelInfer", infer_request(sample(1).data), timeout=0.5)
    assert error.status == "DEADLINE_EXCEEDED"
    stack.wait_for(lambda: not stack.names("p"), "its pixels are gone", 5)

    shorter = infer_request(sample(1).data)
    shorter.parameters["timeout"].int64_param = 300_000
    error = refusal(caller, "ModelInfer", shorter)
    assert (error.status, error.code) == ("DEADLINE_EXCEEDED", "timed_out")


@pytest.mark.usefixtures("asleep")
def test_without_a_slot_a_call_is_told_when_to_come_again(stack: Stack, caller: Caller) -> None:
    infer = caller.method("ModelInfer")
    calls = [infer.future(infer_request(sample(1).data)) for _ in range(SLOTS)]
    stack.wait_for(lambda: len(stack.names("p")) == SLOTS, "all slots are taken")

    error = refusal(caller, "ModelInfer", infer_request(sample(2).data))

    assert (error.status, error.code) == ("UNAVAILABLE", "busy")
    assert error.metadata["retry-after"] == "1"
    assert error.metadata["grpc-retry-pushback-ms"] == "1000"
    assert caller.call("ServerReady").ready
    for call in calls:
        call.cancel()
    stack.wait_for(lambda: not stack.names("p"), "all have left")


# -- a server of its own --------------------------------------------------------------------------


def test_keys_are_asked_for_and_large_messages_counted(stack: Stack, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    other = "x" * 20
    keys.write_text(
        f"{KEY}\n{SLOW_KEY} priority=background name=slow rate=0.01 burst=3\n"
        f"{other} name=a models=other\n"
    )
    picture = sample(1)
    little = dict.fromkeys(("WEB_MEMORY_BYTES", "MAX_BODY_BYTES", "MAX_IMAGE_BYTES"), "1MiB")
    with serving(stack, API_KEYS_FILE=str(keys), **little) as (_, caller):
        request = infer_request(picture.data)
        error = refusal(caller, "ModelInfer", request)
        assert (error.status, error.code) == ("UNAUTHENTICATED", "unauthorized")
        for key, said in ((f"{other}x", "is not valid"), (other, "but for other")):
            error = refusal(caller, "ModelInfer", request, metadata=(("x-api-key", key),))
            assert (error.status, error.code) == ("PERMISSION_DENIED", "forbidden")
            assert said in error.message
        for sent in (("authorization", f"Bearer {KEY}"), ("x-api-key", SLOW_KEY)):
            assert labels_of(caller.call("ModelInfer", request, metadata=(sent,))) == [
                picture.label
            ]
        time.sleep(0.5)  # So all of them are in hand.
        assert caller.call("ServerLive").live

        # There is room for one large message, and for any number of small ones.
        slow = caller.channel.stream_unary(f"/{SERVICE}/ModelInfer")
        calls = [slow.future(silence(), metadata=(sent,)) for _ in range(2)]
        stack.wait_for(lambda: any(each.done() for each in calls), "one is refused")
        (refused,) = [each for each in calls if each.done()]
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        assert "too many large messages" in refused.details()
        assert caller.call("ModelInfer", request, metadata=(sent,))
        for each in calls:
            each.cancel()


def test_a_key_over_its_quota_is_told_when_to_come_again(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY} name=team-a rate=0.01 burst=2\n")
    request, sent = infer_request(sample(1).data), ("x-api-key", KEY)
    with serving(stack, API_KEYS_FILE=str(tmp_path / "keys")) as (server, caller):
        too_many = infer_request(*3 * [sample(1).data])
        error = refusal(caller, "ModelInfer", too_many, metadata=(sent,))
        assert (error.status, error.code) == ("INVALID_ARGUMENT", "too_many_images")
        for _ in range(2):
            assert caller.call("ModelInfer", request, metadata=(sent,))
        for _ in range(2):  # By ENQUEUE, and by what it has told.
            error = refusal(caller, "ModelInfer", request, metadata=(sent,))
            assert (error.status, error.code) == ("RESOURCE_EXHAUSTED", "rate_limited")
            assert "the key team-a may send 0.01 pictures a second" in error.message
            wait_s = int(error.metadata["retry-after"])
            assert 90 <= wait_s <= 100
            assert error.metadata["grpc-retry-pushback-ms"] == str(1000 * wait_s)
        text = Client(server.metrics_port).get("/metrics").text
        assert 'imageserve_key_pictures_total{key="team-a",outcome="rate_limited"} 2.0' in text
        assert {line["key"] for line in server.lines("request")} == {"team-a"}


class Balancer:
    """Leads each new connection to one server, as a Service does."""

    def __init__(self, port: int) -> None:
        self.leads_to = port
        self.port = 0

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._lead, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _lead(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_connection("127.0.0.1", self.leads_to)
        await asyncio.gather(self._copy(reader, beyond[1]), self._copy(beyond[0], writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(2**16):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            return
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def asked_through(balancer: Balancer, until: asyncio.Event) -> list[str]:
    """Ask without a pause over one channel; return what came of each call."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{balancer.port}", options)
    messages = methods()["ModelInfer"]
    infer = channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=messages.request.SerializeToString,
        response_deserializer=messages.response.FromString,
    )
    outcomes = []
    for each in itertools.cycle(samples(6, first=30)):
        if until.is_set():
            break
        try:
            response = await infer(infer_request(each.data), timeout=20)
            outcomes.append("right" if labels_of(response) == [each.label] else "wrong")
        except grpc.aio.AioRpcError as error:
            outcomes.append(f"{error.code().name}: {error.details()}")
    await channel.close()
    return outcomes


async def drained(program: Program, port: int, successor: int) -> list[str]:
    """End a server under load, and lead new connections to its successor meanwhile."""
    balancer, over = Balancer(port), asyncio.Event()
    server = await balancer.start()
    clients = [asyncio.create_task(asked_through(balancer, over)) for _ in range(8)]
    await asyncio.sleep(0.5)
    balancer.leads_to = successor
    program.send(signal.SIGTERM)
    while program.alive:
        await asyncio.sleep(0.05)
    over.set()
    outcomes = [outcome for client in clients for outcome in await client]
    server.close()
    return outcomes


def test_a_drain_loses_nothing(stack: Stack, caller: Caller) -> None:
    with serving(stack, DRAIN_S="3") as (program, old):
        health: Any = HealthStub
        watching = health(old.channel).Watch(HealthCheckRequest())
        assert next(watching).status == HealthCheckResponse.SERVING
        began = time.monotonic()

        outcomes = asyncio.run(drained(program, old.port, caller.port))

        assert program.wait() == 0
        # One that watches the health service for ever delays no end.
        assert time.monotonic() - began < 30
    assert set(outcomes) == {"right"}


def test_pictures_outlive_their_worker_and_an_outage_of_redis_is_told(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(
        WEB_PROCESSES="1", OUTAGE_PATIENCE_S="0", LEASE_S="1", MODEL=f"{STAND_IN_MS}=200,size=64"
    )
    pictures = samples(8, first=20)
    picture = pictures[0]
    with serving(stack) as (program, caller), ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(caller.infer, each.data) for each in pictures]
        stack.wait_for(stack.leased, "the worker has some")
        stack.workers[0].kill()
        stack.start_worker()
        assert [labels_of(each.result()) for each in answers] == [[p.label] for p in pictures]

        stack.redis.pause()
        asked = methods()["ModelReady"].request(name="stand-in")
        lookups = [threads.submit(caller.call, "ModelReady", asked) for _ in range(8)]
        time.sleep(0.5)  # So all of them are in hand.
        assert caller.call("ServerLive").live
        assert not any(each.done() for each in lookups), "it waits for no call that asks Redis"
        stack.redis.resume()
        assert all(each.result().ready for each in lookups)

        stack.redis.kill()
        error = refusal(caller, "ModelInfer", infer_request(picture.data))
        assert (error.status, error.code) == ("UNAVAILABLE", "redis_unavailable")
        assert int(error.metadata["retry-after"]) > 0
        assert caller.call("ServerReady").ready, "an outage makes no pod unready"
        assert Client(program.metrics_port).status_of("/healthz") == 200

        stack.redis.start()

        def answered() -> bool:
            try:
                return labels_of(caller.infer(picture.data, timeout=5)) == [picture.label]
            except Refused:
                return False

        stack.wait_for(answered, "it serves again", 30)
        text = Client(program.metrics_port).get("/metrics").text
        assert 'code="redis_unavailable"' in text
