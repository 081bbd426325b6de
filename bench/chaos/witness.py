"""Counts every job from Redis's own events, independently of the service's counters.

Redis announces every write of a string key (keyspace events) and every published message. The
witness listens to both for three kinds of events: a nonce was written, so a job was accepted; a
result was written, so it was settled; a result was published, so a web process was told. It shares
no code with the queue but the names of its keys. After a restart of Redis it also reads which keys
exist, because Redis does not announce those.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import redis
from tests.redis_server import RedisServer

from imageserve.queue.keys import Keys

EVENTS = ("--notify-keyspace-events", "K$")
"""Options of a redis-server that make it announce writes of strings, per key."""

_KEYSPACE = "__keyspace@0__:"
_SILENCE_S = 0.3
_PAUSE_S = 0.01


@dataclass(slots=True)
class Ledger:
    """Every job by its id. A life is the time between two starts of Redis; the first is 1."""

    life: int = 0
    accepted: set[str] = field(default_factory=set)
    settled: set[str] = field(default_factory=set)
    """A result or an error was stored."""
    forgotten: set[str] = field(default_factory=set)
    """Accepted, not settled, and unknown to Redis after a restart."""
    expired: set[str] = field(default_factory=set)
    """Accepted, not settled, and gone before their time: Redis's clock jumped. Redis's counters,
    which do not expire, still have them."""
    stores: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often a result was written, per life."""
    messages: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How often a result was published, per life."""

    def begin_life(self, nonces: Iterable[str], results: Iterable[str]) -> None:
        """Note the jobs that a Redis still knows after a start."""
        self.life += 1
        known = set(nonces)
        self.settled |= set(results)
        self.forgotten |= self.accepted - self.settled - known
        self.accepted |= known

    def note_expired(self, nonces: Iterable[str]) -> None:
        """Note the jobs that a Redis still knows after a jump of its clock."""
        self.expired |= self.accepted - self.settled - self.forgotten - set(nonces)

    def accept(self, job_id: str) -> None:
        self.accepted.add(job_id)

    def store(self, job_id: str) -> None:
        self.settled.add(job_id)
        self.stores[self.life, job_id] += 1

    def publish(self, job_id: str) -> None:
        self.messages[self.life, job_id] += 1

    @property
    def lost(self) -> set[str]:
        """Accepted, known to Redis to the last, and never settled."""
        return self.accepted - self.settled - self.forgotten - self.expired

    @property
    def doubled(self) -> set[str]:
        """Settled twice, or told twice, within one life of Redis."""
        both = (self.stores, self.messages)
        return {job_id for counts in both for (_, job_id), n in counts.items() if n > 1}

    @property
    def run_again(self) -> set[str]:
        """Settled in two lives: Redis had lost the result, so the job ran again."""
        lives = Counter(job_id for _, job_id in self.stores)
        return {job_id for job_id, count in lives.items() if count > 1}


class Witness:
    """Listens in a thread, from ``start`` to ``stop``, through restarts of Redis."""

    def __init__(self, server: RedisServer, queue: str = "image_queue") -> None:
        keys = Keys(queue)
        self.ledger = Ledger()
        self._server = server
        self._nonce, self._result, self._reply = keys.nonce(""), keys.result(""), keys.reply("")
        self._run_id = ""
        self._failure = ""
        self._listening = threading.Event()
        self._stopping = threading.Event()
        self._has_jumped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="witness", daemon=True)

    def start(self) -> None:
        """Begin; everything that happens after this returns is seen.

        Raises SystemExit where Redis does not let it listen.
        """
        self._thread.start()
        if not self._listening.wait(10):
            raise SystemExit("chaos: Redis does not let the witness listen")

    def stop(self) -> Ledger:
        """End once Redis has announced nothing for a moment, and return what was seen.

        Raises SystemExit where it cannot have seen everything.
        """
        self._stopping.set()
        self._thread.join()
        if self._failure:
            raise SystemExit(f"chaos: the witness has not seen everything: {self._failure}")
        return self.ledger

    def note_jump(self) -> None:
        """Look which jobs Redis still knows, a moment after its clock has jumped."""
        # At once, jobs that were announced before the jump might not have been read yet.
        self._has_jumped.set()

    def _run(self) -> None:
        while not (self._stopping.is_set() or self._failure):
            try:
                self._listen()
            except redis.RedisError:
                self._stopping.wait(_PAUSE_S)

    def _listen(self) -> None:
        client = self._server.client()
        pubsub = client.pubsub()
        patterns = [f"{name}*" for name in (self._reply, *map(_keyspace, self._string_keys))]
        try:
            # Refused while Redis loads its file: it would announce everything that it reads there.
            client.ping()
            pubsub.psubscribe(*patterns)
            for _ in patterns:
                pubsub.get_message(timeout=5)
            # Only now: later writes are announced, earlier ones are read here.
            self._read_keys(client)
            self._listening.set()
            while (message := pubsub.get_message(timeout=_SILENCE_S)) or self._goes_on:
                if message:
                    self._note(message)
                if self._has_jumped.is_set():
                    self._has_jumped.clear()
                    self.ledger.note_expired(_ids(client, self._nonce))
        finally:
            pubsub.close()
            client.close()

    @property
    def _string_keys(self) -> tuple[str, str]:
        return self._nonce, self._result

    @property
    def _goes_on(self) -> bool:
        return not (self._stopping.is_set() or self._failure)

    def _read_keys(self, client: "redis.Redis") -> None:
        known = [_ids(client, prefix) for prefix in self._string_keys]
        run_id = str(client.info("server")["run_id"])
        if run_id == self._run_id:
            self._failure = "Redis closed its connection without a restart"
        self._run_id = run_id
        self.ledger.begin_life(*known)

    def _note(self, message: dict[str, Any]) -> None:
        channel = message["channel"].decode()
        key = channel.removeprefix(_KEYSPACE)
        if key == channel:
            self.ledger.publish(json.loads(message["data"])["id"])
        elif key.startswith(self._nonce):
            self.ledger.accept(key.removeprefix(self._nonce))
        else:
            self.ledger.store(key.removeprefix(self._result))


def _keyspace(key: str) -> str:
    return f"{_KEYSPACE}{key}"


def _ids(client: "redis.Redis", prefix: str) -> set[str]:
    names = client.scan_iter(f"{prefix}*", count=1000)
    return {name.decode().removeprefix(prefix) for name in names}
