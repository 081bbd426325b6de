"""The rights of Redis users: each role runs with just those that are derived for it."""

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from tests.component.conftest import Listen
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServer, eventually

from imageserve.cli import main
from imageserve.errors import QueueForbidden, QueueKeyTaken
from imageserve.preparation import Preparation
from imageserve.queue import listener, self_test
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Consumer, Lease
from imageserve.queue.keys import Keys
from imageserve.queue.monitor import FirstJobWaiter, Monitor
from imageserve.queue.producer import JobRequest, Producer, ProducerConfig
from imageserve.queue.quota import Quota
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.rights import ROLES, acl_rules
from imageserve.queue.self_test import check_server
from imageserve.queue.snapshot import Snapshot, WebInfo, WorkerInfo
from imageserve.queue.wire import Job, result_of_error

SOURCES = Path(__file__).parents[2]
QUEUE = "image_queue"
KEYS = Keys(QUEUE)
JOB = Job("a", "m", (1, 1, 3), 1, KEYS.reply("test"), "trace", 60_000)
NOT_COMMANDS = {"pipeline", "pubsub", "execute", "close", "get_message", "execute_command"}


def user(server: RedisServer, *rules: str) -> RedisAccess:
    server.client().execute_command("ACL", "SETUSER", "me", "reset", "on", ">secret", *rules)
    return RedisAccess(server.url, username="me", password="secret")


class Stage:
    """One server, on which a role acts as a user, and a test as one who may do anything."""

    def __init__(
        self, server: RedisServer, access: RedisAccess, make_queue: QueueMaker, listen: Listen
    ) -> None:
        self.server = server
        self.access = access
        self.listen = listen
        self.queue = RedisQueue(access, QUEUE)
        make_queue.close_later(self.queue)
        self.anybody = make_queue(server.url)

    def monitor(self) -> Monitor:
        return self.queue._monitor


def web(stage: Stage) -> None:
    check_server(stage.access, QUEUE, 2**20)
    self_test.EvictionWatch(stage.access, QUEUE).look()
    replies = stage.listen(stage.server, stage.queue, access=stage.access)
    producer = Producer(stage.queue, replies.tickets[QUEUE], replies.breaker, ProducerConfig())
    quota = Quota("team-a", 50, 100)
    request = JobRequest("m", Preparation((1, 1)), 1, "trace", quota=quota)
    ticket = producer.submit(request, b"rgb", 60_000, threading.Event())
    stage.server.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: not replies.connected, "a lost connection")
    eventually(lambda: replies.connected, "what was missed is read")
    producer.read_stored([ticket])
    stage.queue.count_refused()
    producer.publish(WebInfo("me", 45.0))
    producer.leave("me")
    producer.cancel([ticket])
    assert isinstance(stage.monitor().snapshots()[QUEUE], Snapshot)
    pings = "cmdstat_ping"
    eventually(lambda: pings in stage.server.client().info("commandstats"), "a PING")


def worker(stage: Stage) -> None:
    check_server(stage.access, QUEUE, 2**20)
    self_test.EvictionWatch(stage.access, QUEUE).look()
    assert stage.monitor().desired(QUEUE) == ""
    consumer = Consumer(stage.queue, "m", Lease(60_000))
    stage.queue.heartbeat(WorkerInfo("w", "m", (1, 1, 3), 1, {}, "ready", "here"))
    stage.anybody.enqueue(JOB, b"rgb", 60_000, Limits())
    consumer.wait(0.01)
    batch = consumer.claim(1)
    assert batch is not None
    assert stage.queue.extend(batch.token, batch.ids, 60_000) == 1
    batch.release()
    batch = consumer.claim(1)
    assert batch is not None
    done = result_of_error(JOB, "model_failed", "it failed")
    assert batch.finish([done], {"batches": 1, "busy_ms": 1}) == [True]
    consumer.leave("w")


def autoscaler(stage: Stage) -> None:
    assert isinstance(stage.monitor().snapshots()[QUEUE], Snapshot)
    assert not FirstJobWaiter(stage.access, QUEUE).wait(0.01)
    stage.monitor().keep_arrivals(QUEUE, b"memory", 60)
    assert stage.monitor().arrivals(QUEUE) == b"memory"


def operator(stage: Stage) -> None:
    stage.anybody.enqueue(JOB, b"rgb", 60_000, Limits())
    stage.anybody.bury("{}", "it failed")
    for command in ("queue status", "queue dead", "queue purge --yes"):
        assert main(command.split()) == 0
    for command in ("models use m@v2", "models use --back"):
        assert main(command.split()) == 0
    assert main(["doctor"]) in (2, 3), "it could look"


ACTS: dict[str, Callable[[Stage], None]] = {
    "web": web,
    "worker": worker,
    "autoscaler": autoscaler,
    "operator": operator,
}


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "SILENCE_S", 0.2)
    monkeypatch.setattr(self_test, "WATCH_EVERY_S", -1.0)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_does_all_it_does_with_just_its_rights(
    redis_server: RedisServer,
    make_queue: QueueMaker,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    role: str,
) -> None:
    access = user(redis_server, *acl_rules(role, [QUEUE], RedisAccess(redis_server.url)))
    settings = {
        "REDIS_URL": redis_server.url,
        "REDIS_USERNAME": "me",
        "REDIS_PASSWORD": "secret",
        "MODEL": "stand-in",
        "INPUT_SIZE": "64",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    admin = redis_server.client()
    admin.config_resetstat()

    stage = Stage(redis_server, access, make_queue, listen)
    ACTS[role](stage)
    admin.delete(KEYS.stats)
    admin.set(KEYS.stats, "another program's")
    with pytest.raises(QueueKeyTaken, match="is a string and must be a hash"):
        stage.queue.check_types()

    assert admin.acl_log() == [], "what was refused"
    used = {each.removeprefix("cmdstat_").upper() for each in admin.info("commandstats")}
    assert ROLES[role].commands - used == set(), "a right that nobody needs"


def test_the_commands_of_scripts_are_all_found() -> None:
    for script in {each for role in ROLES.values() for each in role.scripts}:
        calls = re.findall(r"redis\.p?call\(", script.source)
        assert len(calls) == len(re.findall(r"redis\.p?call\('[A-Z]+'", script.source))
        assert script.commands


def test_every_command_in_the_code_belongs_to_a_role() -> None:
    found = set()
    for path in (SOURCES / "src/imageserve").glob("**/*.py"):
        text = path.read_text()
        sent = re.findall(r"\b(?:client|once|blocking|pipeline|pubsub)\.(\w+)\(", text)
        if path.is_relative_to(SOURCES / "src/imageserve/queue"):
            found |= {n.upper().removesuffix("_ITER") for n in sent if n not in NOT_COMMANDS}
            found |= set(re.findall(r'execute_command\(\s*"(\w+)"', text))
    known = set().union(*(role.commands for role in ROLES.values()))
    assert found - {"EVAL", "EVALSHA", "PING"} == known


def test_all_keys_and_channels_match_the_rules(redis_server: RedisServer) -> None:
    strange = "a*b?c[d]e\\f"
    for queue in (QUEUE, strange):
        keys = Keys(queue)
        names = [value for value in vars(keys).values() if isinstance(value, str)]
        names.remove(keys._prefix)
        assert set(keys.types()) == set(names), "a key without a type"
        names += [keys.nonce("a"), keys.pixels("a"), keys.result("a")]
        access = user(redis_server, *acl_rules("worker", [queue], RedisAccess(redis_server.url)))
        theirs = RedisQueue(access, queue)
        assert theirs.client.mget([*names, keys.selftest("run").hold])
        for channel in (keys.reply("me"), keys.selftest("run").reply("me")):
            pubsub = theirs.client.pubsub()
            pubsub.subscribe(channel)
            assert pubsub.get_message(timeout=5)
            pubsub.close()
        with pytest.raises(redis.exceptions.NoPermissionError):
            theirs.client.get("aXb")
        theirs.close()


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        pytest.param(["~*", "&*", "-zadd"], "zadd", id="a command in a script"),
        pytest.param(["~*", "&*", "-evalsha"], "evalsha", id="a command"),
        pytest.param(["~other", "&*"], re.escape(KEYS.leases), id="keys"),
    ],
)
def test_a_refusal_while_it_runs_names_what_is_refused(
    redis_server: RedisServer, make_queue: QueueMaker, rules: list[str], named: str
) -> None:
    queue = RedisQueue(user(redis_server, "+@all", *rules), QUEUE)
    make_queue.close_later(queue)
    make_queue(redis_server.url).enqueue(JOB, b"rgb", 60_000, Limits())
    with pytest.raises(QueueForbidden, match=rf"(?i){named}"):
        queue.claim(1, Lease(), redelivered=False)


def test_a_channel_that_is_refused_is_named(redis_server: RedisServer) -> None:
    access = user(redis_server, "+@all", "~*", "resetchannels")
    with pytest.raises(QueueForbidden, match=r"SUBSCRIBE \{image_queue\}:selftest:"):
        check_server(access, QUEUE, 2**20)


def test_the_command_prints_them_and_the_docs_show_what_it_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)

    assert main(["queue", "acl"]) == 0

    printed = capsys.readouterr().out
    shown = (SOURCES / "docs/operations.md").read_text()
    for role in ROLES:
        (rules,) = re.findall(rf"^# {role}\n(.*)$", printed, re.MULTILINE)
        assert " ".join(rules.split()) in " ".join(shown.split()), role


@pytest.mark.parametrize(
    ("url", "extra"),
    [
        ("redis://here/0", []),
        ("redis://here/2", ["+select"]),
        ("redis+sentinel://here/master/0", []),
        ("redis+sentinel://here/master/2", ["+select"]),
        ("redis+cluster://here", ["+cluster|slots"]),
        ("unix:///run/redis.sock", []),
    ],
)
def test_some_addresses_take_one_more_right(url: str, extra: list[str]) -> None:
    usual = acl_rules("autoscaler", [QUEUE], RedisAccess())
    assert acl_rules("autoscaler", [QUEUE], RedisAccess(url)) == usual + extra


def test_an_autoscaler_with_the_rights_of_0_1_0_reads_the_queue(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    access = user(redis_server, "+@all", "-get", f"~{QUEUE}", "~{image_queue}:*", "&*")
    queue = RedisQueue(access, QUEUE)
    make_queue.close_later(queue)
    info = WorkerInfo("w", "m", (1, 1, 3), 1, {}, "ready", "here", preparation=Preparation((1, 1)))
    make_queue(redis_server.url).heartbeat(info)

    seen = queue.snapshot()

    assert (len(seen.workers), seen.kept) == (1, "")
