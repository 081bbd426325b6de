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

def picture(name, seconds=10, raises=None):
    with line.turn(Asked(time.monotonic() + seconds)):
        seen.append(name)
        hold(0.02)
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
        *("bad", "failed", "c", "c sent", "too late", "d", "d sent"),
        0,
    ]


def test_outside_a_server_nobody_waits() -> None:
    line = DecodeLine()
    with line.turn(Asked(0.0)), line.turn(Asked(0.0)):
        assert line.pictures == 0
