"""The line of pictures that wait to be decoded, in child processes that gevent has patched."""

import json
import subprocess
import sys
from typing import Any

from imageserve.web.decode_order import Asked
from imageserve.web.line import DecodeLine

BEGIN = """
from gevent import monkey
monkey.patch_all()
import json, socket, time
import gevent, gevent.socket
from imageserve.errors import TimedOut, WouldTimeOut
from imageserve.web.decode_order import Asked
from imageserve.web.line import DecodeLine

line, seen = DecodeLine(), []
hold = monkey.get_original("time", "sleep")

def picture(name, seconds=10, raises=None, is_background=False, took=0.02):
    with line.turn(Asked(time.monotonic() + seconds, is_background)):
        seen.append(name)
        hold(took)
        if raises:
            raise raises
    seen.append(f"{name} sent")  # Nothing has run between its decoding and this.
"""

IN_TURN = """
ours, theirs = socket.socketpair()
def reader():
    while True:
        gevent.socket.wait_read(ours.fileno())
        ours.recv(1)
        seen.append("read")
        theirs.sendall(b"x")  # At once there is something to read again.

reading = gevent.spawn(reader)
gevent.sleep(0)
theirs.sendall(b"x")
gevent.joinall([gevent.spawn(picture, name) for name in "abcd"], raise_error=True)
gevent.sleep(0.01)
reading.kill()
print(json.dumps([*seen, line.pictures]))
"""

LEAVING = """
def late():
    try:
        picture("late", 0.01)
    except (TimedOut, WouldTimeOut):
        seen.append("too late")

def failed():
    try:
        picture("bad", raises=ValueError())
    except ValueError:
        seen.append("failed")

first = gevent.spawn(failed)
second = gevent.spawn(picture, "c")
third = gevent.spawn(late)
victim = gevent.spawn(picture, "killed")
fourth = gevent.spawn(picture, "d")
gevent.sleep(0)
victim.kill(block=False)
gevent.joinall([first, second, third, fourth])
gevent.sleep(0.01)
print(json.dumps([*seen, line.pictures]))
"""

DOOMED = """
line.answered(None, 5.0)  # So long answers take after decoding.

def doomed(name):
    try:
        picture(name, 2, took=0.001)
    except WouldTimeOut:
        seen.append(f"{name} refused")

waiting = [gevent.spawn(picture, "first")]
waiting += [gevent.spawn(doomed, name) for name in ("doomed 1", "doomed 2")]
waiting += [gevent.spawn(picture, "patient", 30, took=0.001)]
gevent.joinall(waiting, raise_error=True)
gevent.sleep(0.05)
waiting = [gevent.spawn(picture, "first"), gevent.spawn(doomed, "last of all")]
gevent.joinall(waiting, raise_error=True)
print(json.dumps([*(each for each in seen if not each.endswith("sent")), line.pictures]))
"""

WOKEN = """
import threading
ours, theirs = socket.socketpair()
woken = threading.Event()

def listener():
    while True:
        gevent.socket.wait_read(ours.fileno())
        ours.recv(1)
        woken.set()

def request():
    while True:
        woken.wait(100)
        woken.clear()
        seen.append("answered")

def has_a_result_meanwhile(name):
    with line.turn(Asked(time.monotonic() + 10)):
        seen.append(name)
        theirs.sendall(b"x")

greenlets = [gevent.spawn(listener), gevent.spawn(request)]
gevent.sleep(0)
gevent.joinall([gevent.spawn(has_a_result_meanwhile, name) for name in "abcd"])
gevent.sleep(0.05)
print(json.dumps(seen))
"""

ORDER = """
waiting = [gevent.spawn(picture, "first")]
for number in range(20):
    waiting.append(gevent.spawn(picture, f"patient {number}", 20, took=0.001))
for name in ("background 0", "background 1"):
    waiting.append(gevent.spawn(picture, name, 5, is_background=True, took=0.001))
waiting.append(gevent.spawn(picture, "tight", 5, took=0.001))
gevent.joinall(waiting, raise_error=True)
print(json.dumps([each for each in seen if not each.endswith("sent")]))
"""

OVERLOAD = """
from imageserve.web.pace import Pace
line._gate.pace = Pace(SUPPOSED_S)
decoded, refused, shortest = [], [], []

def request(number, deadline):
    try:
        line.check(Asked(deadline))
        with line.turn(Asked(deadline)):
            decoded.append(number)
            hold(TAKES_S)
    except (TimedOut, WouldTimeOut) as error:
        refused.append(number)
        shortest.append(error.message)

for number in range(40):
    deadline = time.monotonic() + 20 * TAKES_S
    gevent.joinall([gevent.spawn(request, number, deadline) for _ in range(30)], raise_error=True)
    if not number:
        first, refused_first = len(decoded), len(refused)
print(json.dumps([first, refused_first, line._gate.pace.seconds, decoded.count(39), shortest[0]]))
"""


def printed(program: str) -> Any:
    command = [sys.executable, "-c", BEGIN + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_is_decoded_and_sent_first_and_the_loop_reads_before_the_next() -> None:
    *seen, length = printed(IN_TURN)
    seen = [each for i, each in enumerate(seen) if each != "read" or seen[i - 1] != "read"]

    assert [each for each in seen if each != "read"] == [
        each for name in "abcd" for each in (name, f"{name} sent")
    ]
    for name in "bcd":
        assert seen[seen.index(name) - 1] == "read", "the loop has done its I/O before the next"
    assert length == 0


def test_who_fails_is_late_or_is_ended_holds_up_nobody() -> None:
    assert printed(LEAVING) == [
        *("bad", "failed", "too late", "c", "c sent", "d", "d sent"),
        0,
    ]


def test_a_result_that_came_meanwhile_is_answered_before_the_next_picture_is_decoded() -> None:
    assert printed(WOKEN) == [each for name in "abcd" for each in (name, "answered")]


def test_the_earliest_deadline_goes_first_and_every_tenth_is_of_the_background() -> None:
    first, tight, *rest = printed(ORDER)

    assert (first, tight) == ("first", "tight")
    patient = [each for each in rest if each.startswith("patient")]
    assert patient == [f"patient {number}" for number in range(20)]
    assert [rest.index(f"background {number}") for number in range(2)] == [8, 18]


def test_what_would_miss_its_deadline_is_refused_and_named_one_that_would_not() -> None:
    first, refused, pace_s, _, message = printed("SUPPOSED_S = TAKES_S = 0.005" + OVERLOAD)

    assert 0 < first < 30
    assert first + refused == 30, "each is decoded or refused"
    assert 0.001 < pace_s < 0.1
    assert "the shortest X-Request-Timeout that is accepted now is 0." in message


def test_at_its_turn_what_is_too_late_gives_way_unless_nobody_else_waits() -> None:
    *seen, _ = printed(DOOMED)

    assert seen == [
        *("first", "doomed 1 refused", "doomed 2 refused", "patient"),
        *("first", "last of all"),
    ]


def test_a_pace_that_was_wrong_is_found_out() -> None:
    first, _, pace_s, last, _ = printed("SUPPOSED_S, TAKES_S = 0.3, 0.02" + OVERLOAD)

    assert first > 0, "one is decoded whatever is supposed"
    assert pace_s < 0.15
    assert last > first


def test_outside_a_server_nobody_waits() -> None:
    line = DecodeLine()
    with line.turn(Asked(0.0)), line.turn(Asked(0.0)):
        assert line.pictures == 0
