"""The web server's way of looking at a socket, in a process that gevent has patched for good."""

import json
import subprocess
import sys

from tests.redis_server import RedisServer

QUEUEING = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent, redis
from imageserve.queue.wire import Job
from imageserve.queue.producer import Limits
from imageserve.queue.redis.connection import RedisAccess
from tests.queues import RedisQueue
from imageserve.web.polling import look_without_waiting
if sys.argv[2] == "ours":
    look_without_waiting()

order = []
send = redis.Connection.send_packed_command
def noted(self, command, *args, **options):
    order.append("sent")
    return send(self, command, *args, **options)

queue = RedisQueue(RedisAccess(sys.argv[1]), "order", connections=8)

def picture(name):
    order.append("decoded")
    job = Job(name, "resnet50", (1, 1, 3), 5, "", "trace", 60_000)
    queue.enqueue(job, b"rgb", 60_000, Limits(100, 10**9, 100))

def together(prefix):
    gevent.joinall([gevent.spawn(picture, f"{prefix}{n}") for n in range(4)], raise_error=True)

together("warm")  # Connects.
redis.Connection.send_packed_command = noted
order.clear()
together("cold")
print(json.dumps(order))
"""


def queueing(server: RedisServer, polling: str) -> list[str]:
    command = [sys.executable, "-c", QUEUEING, server.url, polling]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    order: list[str] = json.loads(done.stdout)
    return order


def test_a_decoded_picture_is_sent_before_the_next_is_decoded(shared_redis: RedisServer) -> None:
    assert queueing(shared_redis, "ours") == ["decoded", "sent"] * 4


def test_with_the_polling_of_gevent_all_are_decoded_first(shared_redis: RedisServer) -> None:
    # Once this fails, there is no need any more for a polling of our own.
    assert queueing(shared_redis, "gevent") == ["decoded"] * 4 + ["sent"] * 4


POLLING = """
from imageserve.web.gunicorn_worker import Worker
worker = Worker.__new__(Worker)
worker.sockets = []
worker.patch()  # What gunicorn calls first in every web process.
import json, select, socket
import gevent

def look(sock, timeout):
    poller = select.poll()
    poller.register(sock, select.POLLIN)
    return bool(poller.poll(timeout))

ours, theirs = socket.socketpair()
turns = []
other = gevent.spawn(turns.append, "turn")
found = {"empty": look(ours, 0), "turns while looking": list(turns)}
gevent.spawn_later(0.05, theirs.sendall, b"x")
found["waited for"] = look(ours, 10_000)
found["turns while waiting"] = list(turns)
found["something there"] = look(ours, 0)
ours.recv(1)
gevent.spawn_later(0.05, theirs.sendall, b"x")
found["waited for ever"] = look(ours, -1)
ours.recv(1)
found["nothing came"] = look(ours, 20)
theirs.close()
found["closed"] = look(ours, 0)

poller = select.poll()
poller.register(ours, select.POLLIN)
poller.modify(ours.fileno(), select.POLLOUT)
found["modified"] = poller.poll(0)[0][1] & select.POLLIN == 0
poller.unregister(ours)
found["unregistered"] = poller.poll(0) == []
print(json.dumps(found))
"""


def test_a_look_gives_nobody_a_turn_and_a_wait_everybody() -> None:
    command = [sys.executable, "-c", POLLING]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "empty": False,
        "turns while looking": [],
        "waited for": True,
        "turns while waiting": ["turn"],
        "something there": True,
        "waited for ever": True,
        "nothing came": False,
        "closed": True,
        "modified": True,
        "unregistered": True,
    }
