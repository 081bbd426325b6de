"""Decoder processes: they decode as the web process does, and are stopped at every limit."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tests.bombs import PIXELS, bmp_of_runs, webp_of_code_tables
from tests.pictures import encoded, jpeg, photo
from tests.redis_server import eventually

from imageserve.decoding import Cost, DecodingPolicy, decode, open_picture, too_much_memory
from imageserve.errors import Busy, CorruptImage, ImageTooLarge, NotAnImage, RequestError, TimedOut
from imageserve.preparation import Preparation
from imageserve.web.decoder_process import REPLY, Task
from imageserve.web.decoders import QUICK_S, Decoder, Decoders, _Lane, _Place
from imageserve.web.greenlets import Wait

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

POLICY = DecodingPolicy(fast_jpeg=True)
SIZE = (64, 48)
PHOTO = jpeg(1600, 1200)
LONG = bmp_of_runs(900, 900, (b"\1\7" * 900 + b"\0\0") * 900 + b"\0\1")
"""A second of work for a decoder."""


IDS = {"request_id": "request-7"}


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    made = Decoders(POLICY, processor_s=20)
    yield made
    made.end()


def task_of(data: bytes, memory_bytes: int = 2**28) -> Task:
    return Task(data, Preparation(SIZE), memory_bytes, IDS)


def run(
    decoders: Decoders,
    data: bytes,
    *,
    seconds: float = 30,
    cost_s: float = 0.1,
    memory_bytes: int = 2**28,
    wait: Wait | None = None,
) -> bytes:
    task, cost = task_of(data, memory_bytes), Cost(cost_s, memory_bytes)
    return decoders.decode(task, cost, time.monotonic() + seconds, wait or Wait())


def children() -> list[int]:
    """Return the decoder processes of this one."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # The thread has just ended.
            pids |= {int(pid) for pid in path.read_text().split()}
    return sorted(pid for pid in pids if b"decoder_process" in command_line(pid))


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # It has just ended.
        return b""


def only_child() -> int:
    """Return the one decoder; for a moment after its start it has no command line."""
    eventually(lambda: len(children()) == 1, "one decoder runs")
    return children()[0]


def raised(call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    return caught.value


# -- what they give ------------------------------------------------------------------------------


def outcome(call: Callable[[], bytes]) -> bytes | str:
    try:
        return call()
    except RequestError as error:
        return f"{error.code}: {error.message}"


def test_a_decoder_gives_what_the_web_process_would(decoders: Decoders) -> None:
    pictures = {
        "JPEG": PHOTO,
        "PNG": encoded(photo(700, 300, mode="RGBA"), "PNG"),
        "cut": PHOTO[:9_000],
        "no WebP": encoded(photo(90, 90), "WEBP", lossless=True)[:60] + bytes(4_000),
        **{name: make() for name, make in PIXELS.items()},
    }
    for name, data in pictures.items():
        expected = outcome(lambda: decode(data, Preparation(SIZE), POLICY))  # noqa: B023
        assert outcome(lambda: run(decoders, data)) == expected, name  # noqa: B023


def test_errors_are_those_of_the_decoder(decoders: Decoders) -> None:
    error = raised(lambda: run(decoders, b"no picture"))
    assert isinstance(error, NotAnImage)
    assert (error.code, error.status) == ("not_an_image", 400)
    assert len(run(decoders, PHOTO)) == 64 * 48 * 3


def test_a_large_picture_crosses_whole(decoders: Decoders) -> None:
    data = encoded(Image.frombytes("RGB", (1_800, 1_800), os.urandom(9_720_000)), "BMP")
    assert run(decoders, data) == decode(data, Preparation(SIZE), POLICY)


# -- limits --------------------------------------------------------------------------------------


def test_processor_time_has_a_limit_that_the_client_is_told() -> None:
    decoders = Decoders(POLICY, processor_s=0.2)
    try:
        error = raised(lambda: run(decoders, LONG))
        assert isinstance(error, ImageTooLarge)
        assert "takes more than 0.2 seconds of processor time, which is the limit" in error.message
        assert len(run(decoders, PHOTO)) == 64 * 48 * 3
    finally:
        decoders.end()


def test_a_decoder_that_takes_long_to_end_has_taken_too_much_time_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = os.waitpid
    asked: list[int] = []

    def late(pid: int, options: int) -> tuple[int, int]:
        asked.append(pid)
        return (0, 0) if asked.count(pid) <= 1_500 else real(pid, options)

    monkeypatch.setattr("imageserve.web.decoders._REAPING_S", 0.0001)
    monkeypatch.setattr(os, "waitpid", late)
    decoders = Decoders(POLICY, processor_s=0.2)
    try:
        assert isinstance(raised(lambda: run(decoders, LONG)), ImageTooLarge)
    finally:
        monkeypatch.undo()
        decoders.end()


def test_a_picture_whose_decoder_neither_answers_nor_ends_is_not_tried_again(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.web.decoders._ENDING_S", 0.2)
    before = only_child()

    def too_long(decoder: Decoder, count: int, deadline: float) -> bytes:
        return REPLY.pack(1, 2**31)

    with monkeypatch.context() as patch:
        patch.setattr(Decoder, "_received", too_long)
        assert isinstance(raised(lambda: run(decoders, PHOTO)), TimedOut)
    assert before not in children()
    assert len(run(decoders, PHOTO)) == 64 * 48 * 3


def test_what_is_slower_than_reckoned_does_not_hold_up_the_quick(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.web.decoders.QUICK_MOST_S", 0.2)
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(run, decoders, LONG, cost_s=0.1)
        eventually(lambda: decoders._costly.running is not None, "the second one decodes it")
        assert len(run(decoders, PHOTO)) == 64 * 48 * 3
        assert slow.result() == decode(LONG, Preparation(SIZE), POLICY)


def test_memory_has_a_limit(decoders: Decoders) -> None:
    data = encoded(Image.new("RGB", (7_000, 7_000)), "PNG")
    error = raised(lambda: run(decoders, data, memory_bytes=2**20))
    assert isinstance(error, ImageTooLarge)
    assert error.message == too_much_memory().message
    reckoned = open_picture(data, POLICY).cost(Preparation(SIZE)).memory_bytes
    assert len(run(decoders, data, memory_bytes=reckoned)) == 64 * 48 * 3


def test_at_the_deadline_the_decoder_is_killed_and_another_one_decodes_on(
    decoders: Decoders,
) -> None:
    before = only_child()
    began = time.monotonic()
    assert isinstance(raised(lambda: run(decoders, LONG, seconds=0.3)), TimedOut)
    assert time.monotonic() - began < 5
    assert before not in children()
    assert len(run(decoders, PHOTO)) == 64 * 48 * 3


def test_a_decoder_that_is_killed_is_replaced_and_its_picture_tried_again(
    decoders: Decoders, caplog: pytest.LogCaptureFixture
) -> None:
    with ThreadPoolExecutor() as pool:
        future = pool.submit(run, decoders, LONG)
        pid = only_child()
        eventually(lambda: processor_s(pid) > 0.2, "it decodes")
        os.kill(pid, signal.SIGKILL)
        assert future.result() == decode(LONG, Preparation(SIZE), POLICY)
    assert only_child() != pid
    (line,) = [each for each in caplog.records if "ended by signal" in each.msg]
    assert vars(line)["fields"] == IDS


def processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_decoder_that_is_killed_while_it_has_nothing_to_do_is_replaced(
    decoders: Decoders,
) -> None:
    run(decoders, PHOTO)
    os.kill(only_child(), signal.SIGKILL)
    assert len(run(decoders, PHOTO)) == 64 * 48 * 3


def test_a_picture_whose_decoder_is_killed_twice_is_refused(decoders: Decoders) -> None:
    with ThreadPoolExecutor() as pool:
        future = pool.submit(raised, lambda: run(decoders, LONG))
        first = only_child()
        eventually(lambda: processor_s(first) > 0.2, "it decodes")
        os.kill(first, signal.SIGKILL)
        eventually(lambda: first not in children(), "the first is gone")
        second = only_child()
        eventually(lambda: processor_s(second) > 0.2, "it decodes again")
        os.kill(second, signal.SIGKILL)
    assert isinstance(future.result(), Busy)
    assert future.result().retry_after_s == 1
    assert len(run(decoders, PHOTO)) == 64 * 48 * 3


def test_a_picture_that_makes_its_decoders_crash_is_refused(decoders: Decoders) -> None:
    with ThreadPoolExecutor() as pool:
        future = pool.submit(raised, lambda: run(decoders, LONG))
        for _ in range(2):
            pid = only_child()
            eventually(lambda: processor_s(pid) > 0.2, "it decodes")  # noqa: B023
            os.kill(pid, signal.SIGSEGV)
            eventually(lambda: pid not in children(), "it is gone")  # noqa: B023
    assert isinstance(future.result(), CorruptImage)


def test_without_a_decoder_that_works_pictures_are_refused_for_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for program in ("/bin/false", "/nowhere"):
        monkeypatch.setattr("imageserve.web.decoders.sys", SimpleNamespace(executable=program))
        decoders = Decoders(POLICY, processor_s=5)
        error = raised(lambda: run(decoders, PHOTO))  # noqa: B023
        assert (error.status, error.code, error.retry_after_s) == (503, "busy", 1)
        monkeypatch.undo()
        assert len(run(decoders, PHOTO)) == 64 * 48 * 3
        decoders.end()


# -- the lines -----------------------------------------------------------------------------------


def in_line(decoders: Decoders, count: int) -> Callable[[], bool]:
    lanes = (decoders._quick, decoders._costly)
    return lambda: sum(len(lane.line) + bool(lane.running) for lane in lanes) == count


def test_costly_pictures_do_not_hold_up_photos(decoders: Decoders) -> None:
    with ThreadPoolExecutor() as pool:
        costly = [pool.submit(run, decoders, LONG, cost_s=QUICK_S + n) for n in (1, 2, 3)]
        eventually(in_line(decoders, 3), "all are in the line")
        assert len(run(decoders, PHOTO)) == 64 * 48 * 3
        assert not any(future.done() for future in costly[1:])
        assert len(children()) == 2
        assert {len(future.result()) for future in costly} == {64 * 48 * 3}


def test_the_cheapest_goes_first(decoders: Decoders) -> None:
    order: list[float] = []

    def decoded(cost_s: float) -> None:
        run(decoders, PHOTO, cost_s=cost_s)
        order.append(cost_s)

    with ThreadPoolExecutor() as pool:
        futures: list[Future[object]] = [pool.submit(run, decoders, LONG)]
        eventually(in_line(decoders, 1), "it decodes")
        for count, cost_s in enumerate((0.3, 0.1, 0.2, 0.1), 2):
            futures.append(pool.submit(decoded, cost_s))
            eventually(in_line(decoders, count), "in the line")
    assert [future.result() for future in futures[1:]] == [None] * 4
    assert order == [0.1, 0.1, 0.2, 0.3]


def test_who_would_wait_too_long_is_refused_at_once_with_a_time_to_come_again(
    decoders: Decoders,
) -> None:
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(run, decoders, LONG, cost_s=20) for _ in range(2)]
        eventually(in_line(decoders, 2), "they are in the line")
        began = time.monotonic()
        error = raised(lambda: run(decoders, LONG, cost_s=20, seconds=30))
        assert time.monotonic() - began < 1
        assert isinstance(error, Busy)
        assert error.retry_after_s is not None
        assert 20 <= error.retry_after_s <= 30
        assert all(future.result() for future in futures)
        # It has learned that what was reckoned as 20 seconds takes a few.
        assert run(decoders, PHOTO, cost_s=QUICK_S + 1)


def test_a_client_that_hangs_up_leaves_the_line(decoders: Decoders) -> None:
    wait = Wait()
    with ThreadPoolExecutor() as pool:
        first = pool.submit(run, decoders, LONG)
        eventually(in_line(decoders, 1), "it decodes")
        second = pool.submit(raised, lambda: run(decoders, LONG, wait=wait))
        eventually(in_line(decoders, 2), "both are in the line")
        wait.hang_up()
        assert isinstance(second.result(5), TimedOut)
        eventually(in_line(decoders, 1), "only the first is left")
        assert first.result()


def test_both_decoders_share_one_budget_of_memory(decoders: Decoders) -> None:
    share = POLICY.max_memory // 2 + 1
    with ThreadPoolExecutor() as pool:
        costly = pool.submit(run, decoders, LONG, cost_s=QUICK_S + 1, memory_bytes=share)
        eventually(in_line(decoders, 1), "it decodes")
        quick = pool.submit(run, decoders, PHOTO, memory_bytes=share)
        assert len(run(decoders, PHOTO, cost_s=0.01)) == 64 * 48 * 3
        assert not costly.done()
        assert not quick.done()
        assert costly.result()
        assert quick.result()


def test_neither_line_waits_for_more_than_one_picture_of_the_other(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two of these fit into the memory at the same time."""
    began: list[str] = []
    may_end = threading.Semaphore(0)

    def decode(lane: _Lane, task: Task, processor_s: float, deadline: float) -> bytes:
        began.append(lane.name)
        assert may_end.acquire(timeout=30)
        return b""

    monkeypatch.setattr(_Lane, "decode", decode)
    share = POLICY.max_memory // 2 + 1
    with ThreadPoolExecutor(8) as pool:
        for count, cost_s in enumerate([0.6] * 4 + [0.2, 0.3, 0.1], 1):
            pool.submit(run, decoders, PHOTO, cost_s=cost_s, memory_bytes=share)
            eventually(in_line(decoders, count), "in the line")
        for count in range(1, 8):
            eventually(lambda: len(began) == count, "the next one begins")  # noqa: B023
            may_end.release()
    assert began == ["costly", "quick"] * 3 + ["costly"]


def learn(lane: _Lane, reckoned_s: float, taken_s: float) -> None:
    began = time.monotonic() - taken_s
    lane.learn(_Place(Cost(reckoned_s, 1), 1, Wait(), began))


def test_a_few_pictures_that_lie_about_their_cost_get_no_honest_one_refused() -> None:
    lane = _Lane("quick", POLICY, 0, 3.0)
    for _ in range(3):
        learn(lane, reckoned_s=0.02, taken_s=1.5)
    lane.running = _Place(Cost(0.3, 1), 1, Wait(), time.monotonic())
    assert lane.ahead_s(0.3) < 0.5


def test_a_machine_that_is_slow_is_known_after_some_pictures() -> None:
    lane = _Lane("quick", POLICY, 0, 3.0)
    for _ in range(30):
        learn(lane, reckoned_s=0.2, taken_s=2.0)
    lane.running = _Place(Cost(0.3, 1), 1, Wait(), time.monotonic())
    assert 2.5 < lane.ahead_s(0.3) <= 3.0


# -- the processes -------------------------------------------------------------------------------


def test_a_decoder_has_no_secret_and_no_descriptor_of_the_web_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "hidden")
    redis, file = socket.socket(), open(__file__, "rb")  # noqa: SIM115
    decoders = Decoders(POLICY, processor_s=5)
    try:
        run(decoders, PHOTO)
        pid = only_child()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"hidden" not in environment
        targets = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        sockets = {target for target in targets.values() if target.startswith("socket:")}
        assert sockets == {targets["0"]}
        assert str(Path(__file__)) not in targets.values()
    finally:
        redis.close()
        file.close()
        decoders.end()


def test_hundreds_of_pictures_leave_no_descriptor_and_no_process(decoders: Decoders) -> None:
    run(decoders, PHOTO)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        run(decoders, PHOTO)
    for _ in range(3):
        raised(lambda: run(decoders, LONG, seconds=0.05))
    run(decoders, PHOTO)
    assert len(os.listdir("/proc/self/fd")) == before
    assert len(children()) == 1


WEB_PROCESS = """
import sys, time, threading
from imageserve.decoding import Cost, DecodingPolicy
from imageserve.preparation import Preparation
from imageserve.web.decoder_process import Task
from imageserve.web.decoders import Decoders
from imageserve.web.greenlets import Wait
decoders = Decoders(DecodingPolicy(), 20)
data = sys.stdin.buffer.read()
def decode():
    task = Task(data, Preparation((8, 8), interpolation="box"), 2**28)
    decoders.decode(task, Cost(.1, 2**28), time.monotonic() + 2, Wait())
threading.Thread(target=decode).start()
time.sleep(60)
"""


@pytest.mark.parametrize("data", [b"", LONG], ids=["idle", "decoding"])
def test_a_decoder_ends_with_its_web_process(data: bytes) -> None:
    path = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", WEB_PROCESS],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=path,
    ) as web:
        assert web.stdin
        web.stdin.write(data)
        web.stdin.close()
        found = Path(f"/proc/{web.pid}/task/{web.pid}/children")
        eventually(lambda: found.read_text().strip(), "its decoder runs")
        pid = int(found.read_text())
        if data:
            eventually(lambda: processor_s(pid) > 0.2, "it decodes")
        web.kill()
    eventually(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid), "it has ended")


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_code_tables_without_end_are_stopped_by_the_limit_of_memory(decoders: Decoders) -> None:
    data = webp_of_code_tables(700)  # They would take 700 MB.
    cost = open_picture(data, POLICY).cost(Preparation(SIZE))
    assert cost.seconds > QUICK_S
    task = Task(data, Preparation(SIZE), cost.memory_bytes)
    error = raised(lambda: decoders.decode(task, cost, time.monotonic() + 30, Wait()))
    assert (error.code, error.message) == ("image_too_large", too_much_memory().message)
    peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{children()[-1]}/status").read_text())
    assert peak
    assert int(peak[1]) < 200_000
