"""How the web server uses gevent, in child processes that gevent has patched."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from tests.redis_server import RedisServer

from imageserve.errors import BadRequest
from imageserve.web.greenlets import Wait, upload_deadline, watch_hang_up

QUEUEING = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent, redis
from imageserve.queue.wire import Job
from imageserve.queue.admission import Limits
from imageserve.queue.redis.connection import RedisAccess
from tests.queues import RedisQueue
from imageserve.web.greenlets import install_poll
if sys.argv[2] == "ours":
    install_poll()

order = []
send = redis.Connection.send_packed_command
def noted(self, command, *args, **options):
    order.append("sent")
    return send(self, command, *args, **options)

queue = RedisQueue(RedisAccess(sys.argv[1]), "order", connections=8)

def picture(name):
    order.append("decoded")
    job = Job(name, "resnet50", (1, 1, 3), 5, "", "trace", 60_000)
    queue.enqueue(job, b"rgb", 60_000, Limits(100, 10**9))

def together(prefix):
    gevent.joinall([gevent.spawn(picture, f"{prefix}{n}") for n in range(4)], raise_error=True)

together("warm")  # Connects.
redis.Connection.send_packed_command = noted
order.clear()
together("cold")
print(json.dumps(order))
"""


def printed(program: str, *arguments: str) -> Any:
    """Run a program in a process of its own; return the JSON that it prints."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_decoded_picture_is_sent_before_the_next_is_decoded(shared_redis: RedisServer) -> None:
    assert printed(QUEUEING, shared_redis.url, "ours") == ["decoded", "sent"] * 4


def test_with_the_poll_of_gevent_all_are_decoded_first(shared_redis: RedisServer) -> None:
    # When this fails, gevent has changed, and a poll of our own is no longer needed.
    expected = ["decoded"] * 4 + ["sent"] * 4
    assert printed(QUEUEING, shared_redis.url, "gevent") == expected


POLLING = """
from imageserve.web.server import Worker
worker = Worker.__new__(Worker)
worker.sockets = []
worker.patch()  # What gunicorn calls first in every web process.
import json, select, socket
import gevent

def readable(sock, timeout):
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout))

ours, theirs = socket.socketpair()
turns = []
other = gevent.spawn(turns.append, "turn")
found = {"empty": readable(ours, 0), "turns while asking": list(turns)}
gevent.spawn_later(0.05, theirs.sendall, b"x")
found["waited for"] = readable(ours, 10_000)
found["turns while waiting"] = list(turns)
found["something there"] = readable(ours, 0)
ours.recv(1)
gevent.spawn_later(0.05, theirs.sendall, b"x")
found["waited for ever"] = readable(ours, -1)
ours.recv(1)
found["nothing came"] = readable(ours, 20)
theirs.close()
found["closed"] = readable(ours, 0)

poller = select.poll()
poller.register(ours, select.POLLIN)
poller.modify(ours.fileno(), select.POLLOUT)
found["modified"] = poller.poll(0)[0][1] & select.POLLIN == 0
poller.unregister(ours)
found["unregistered"] = poller.poll(0) == []
print(json.dumps(found))
"""


def test_a_poll_without_a_wait_does_not_run_other_greenlets() -> None:
    assert printed(POLLING) == {
        "empty": False,
        "turns while asking": [],
        "waited for": True,
        "turns while waiting": ["turn"],
        "something there": True,
        "waited for ever": True,
        "nothing came": False,
        "closed": True,
        "modified": True,
        "unregistered": True,
    }


DEADLINES = """
from gevent import monkey
monkey.patch_all()
import json, time
from imageserve.errors import UploadTooSlow
from imageserve.web.greenlets import upload_deadline

found = {}
with upload_deadline(10):
    time.sleep(0.01)
try:
    with upload_deadline(0.05):
        time.sleep(10)
except UploadTooSlow as error:
    found["slow upload"] = error.message
print(json.dumps(found))
"""


def test_slow_uploads_end_in_time() -> None:
    message = "the upload did not arrive within 0.05 seconds"
    assert printed(DEADLINES) == {"slow upload": message}


HANG_UPS = """
from gevent import monkey
monkey.patch_all()
import json, socket
import gevent
from imageserve.web.greenlets import Wait, watch_hang_up

def watched(end):
    server, client = socket.socketpair()
    wait = Wait()
    stop = watch_hang_up({"gunicorn.socket": server}, wait)
    gevent.spawn_later(0.05, end, client)
    woken = wait.wake.wait(0.3)
    stop()
    return [woken, wait.gone]

print(json.dumps({
    "closed": watched(lambda client: client.close()),
    "the next request": watched(lambda client: client.sendall(b"GET")),
    "nothing": watched(lambda client: None),
}))
"""


def test_a_client_that_closes_its_connection_ends_the_wait() -> None:
    assert printed(HANG_UPS) == {
        "closed": [True, True],
        "the next request": [False, False],
        "nothing": [False, False],
    }


# -- in a process that gevent has not patched, like this one ---------------------------------------


def test_outside_a_server_deadlines_never_end() -> None:
    with upload_deadline(0.001):
        time.sleep(0.01)

    watch_hang_up({}, Wait())()


def test_an_upload_that_breaks_off_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="breaks off"), upload_deadline(1):
        raise ConnectionResetError


ALWAYS_READY = """
from gevent import monkey
monkey.patch_all()
import json, time
import gevent
from imageserve.web.connection import Connection, Waits

class Sender:
    \"\"\"A client that always has more to send.\"\"\"
    _sock = property(lambda self: self)
    def recv(self, size):
        return b"x"

turns = []
def other():
    while True:
        turns.append(1)
        gevent.sleep(0.001)

def served():
    connection = Connection(Sender(), Waits(), 10**9)
    with gevent.Timeout(0.2, False):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            connection.recv(1)
        return "nobody else had a turn"
    return "ended by its deadline"

gevent.spawn(other)
print(json.dumps([gevent.spawn(served).get(), len(turns) > 3]))
"""


def test_a_client_that_never_pauses_is_ended_by_its_deadline_and_others_are_served() -> None:
    assert printed(ALWAYS_READY) == ["ended by its deadline", True]


SENT_AHEAD = """
from gevent import monkey
monkey.patch_all()
import io, json, time
from types import SimpleNamespace
import gevent
from imageserve.web.connection import Connection, HeadWait, Waits

ahead = io.BytesIO()
ahead.write(b"GET / HTTP/1.1")
waits = Waits()
connection = Connection(SimpleNamespace(_sock=None), waits, 10**9)
connection.had_request = True
connection.begin_body(SimpleNamespace(
    unreader=SimpleNamespace(buf=ahead), _expected_100_continue=False
))
seen = []

def served():
    end = time.monotonic() + 0.02
    while time.monotonic() < end:
        pass  # Its turn is over.
    with HeadWait(waits, connection, 5, 5):
        seen.append("read")
    seen.append("left")

serving = gevent.spawn(served)
gevent.spawn(lambda: (seen.append("others"), waits.end_kept()))
serving.get()
print(json.dumps([*seen, len(waits.idle), len(waits.unfinished)]))
"""


def test_a_request_that_was_sent_ahead_is_not_cut_off_where_it_gives_its_turn() -> None:
    assert printed(SENT_AHEAD) == ["others", "read", "left", 0, 0]
