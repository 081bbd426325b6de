"""The self-test: servers that pass, and its errors and warnings for others."""

import logging
import re
import time

import pytest
from tests.redis_server import DroppingProxy, RedisServer, free_port

from imageserve import metrics
from imageserve.errors import QueueForbidden, QueueKeyTaken, QueueUnavailable
from imageserve.queue import self_test
from imageserve.queue.consumer import ConsumerStore
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.rights import ROLES
from imageserve.queue.self_test import EvictionWatch, check_server

BYTES_LIMIT = 2**20


def test_a_server_that_can_serve_passes_and_nothing_is_left_on_it(
    shared_redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    check_server(RedisAccess(shared_redis.url), "image_queue", BYTES_LIMIT)
    assert shared_redis.client().dbsize() == 0
    assert not caplog.records


def test_a_queue_in_use_is_not_touched(shared_redis: RedisServer) -> None:
    client = shared_redis.client()
    client.rpush("image_queue", "a job")
    client.hset("{image_queue}:stats", "accepted", 1)
    check_server(RedisAccess(shared_redis.url), "image_queue", BYTES_LIMIT)
    assert client.lrange("image_queue", 0, -1) == [b"a job"]
    assert client.hgetall("{image_queue}:stats") == {b"accepted": b"1"}


def test_a_server_that_may_evict_pictures_is_refused(redis_server: RedisServer) -> None:
    client = redis_server.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", 2**30)
    with pytest.raises(QueueForbidden, match=r"allkeys-lru.*Set it to noeviction"):
        check_server(RedisAccess(redis_server.url), "image_queue", BYTES_LIMIT)


@pytest.mark.parametrize(
    ("setting", "value", "warning"),
    [
        pytest.param("maxmemory-policy", "allkeys-lru", "Set it to noeviction", id="no limit yet"),
        pytest.param("maxmemory", 2**21, "may run out of memory", id="too little memory"),
        pytest.param("appendonly", "no", "waiting jobs are lost", id="no file"),
    ],
)
def test_a_setting_that_may_lose_jobs_later_is_a_warning(
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    value: str | int,
    warning: str,
) -> None:
    redis_server.client().config_set(setting, value)
    check_server(RedisAccess(redis_server.url), "image_queue", 2 * BYTES_LIMIT)
    (record,) = caplog.records
    assert (record.levelno, warning in record.getMessage()) == (logging.WARNING, True)


@pytest.mark.parametrize(
    "command", ["evalsha", "eval", "blmove", "unlink", "mget", "set", "info", "subscribe"]
)
def test_a_command_that_the_user_may_not_use_is_named(
    redis_server: RedisServer, command: str
) -> None:
    client = redis_server.client()
    client.script_flush()
    rules = ["on", ">secret", "~*", "&*", "+@all", f"-{command}"]
    client.execute_command("ACL", "SETUSER", "worker", *rules)
    access = RedisAccess(redis_server.url, username="worker", password="secret")
    with pytest.raises(QueueForbidden, match=rf"(?i)\b{command}\b"):
        check_server(access, "image_queue", BYTES_LIMIT)


def test_each_command_that_a_script_may_not_use_is_found_too(redis_server: RedisServer) -> None:
    client = redis_server.client()
    access = RedisAccess(redis_server.url, username="worker", password="secret")
    roles = ROLES["web"], ROLES["worker"]
    for command in sorted({name for role in roles for name in role.all_commands}):
        client.script_flush()
        rules = ["reset", "on", ">secret", "~*", "&*", "+@all", f"-{command.lower()}"]
        client.execute_command("ACL", "SETUSER", "worker", *rules)
        with pytest.raises(QueueForbidden, match=rf"(?i)\b{command}\b"):
            check_server(access, "image_queue", BYTES_LIMIT)
        assert client.dbsize() == 0 or command == "UNLINK"
        client.flushdb()


def test_a_user_who_may_not_touch_the_queues_keys_is_found(redis_server: RedisServer) -> None:
    rules = ["on", ">secret", "~other:*", "&*", "+@all"]
    redis_server.client().execute_command("ACL", "SETUSER", "worker", *rules)
    access = RedisAccess(redis_server.url, username="worker", password="secret")
    with pytest.raises(QueueForbidden, match="Redis refused"):
        check_server(access, "image_queue", BYTES_LIMIT)


def test_a_queue_whose_name_holds_other_data_is_named(shared_redis: RedisServer) -> None:
    client, access = shared_redis.client(), RedisAccess(shared_redis.url)
    client.set("image_queue", "another program's")
    client.rpush("{image_queue}:workers", "another program's")
    taken = (
        "image_queue is a string and must be a list; "
        "{image_queue}:workers is a list and must be a zset"
    )
    with pytest.raises(QueueKeyTaken, match=re.escape(taken)):
        check_server(access, "image_queue", BYTES_LIMIT)
    check_server(access, "other_queue", BYTES_LIMIT)


def test_a_job_that_expires_on_the_way_is_no_refusal(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "TTL_MS", 20)

    def wait(store: ConsumerStore, block_s: float) -> None:
        del store, block_s
        time.sleep(0.1)

    monkeypatch.setattr(ConsumerStore, "wait", wait)
    with pytest.raises(QueueUnavailable, match="the self-test failed at claim"):
        check_server(RedisAccess(shared_redis.url), "image_queue", BYTES_LIMIT)


def test_its_job_outlives_a_machine_that_is_slow(
    shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = shared_redis.client()
    left_ms: list[int] = []

    def wait(store: ConsumerStore, block_s: float) -> None:
        del store, block_s
        left_ms.extend(client.pttl(key) for key in client.scan_iter("*:p:*"))

    monkeypatch.setattr(ConsumerStore, "wait", wait)
    check_server(RedisAccess(shared_redis.url), "image_queue", BYTES_LIMIT)
    assert [ms > 30_000 for ms in left_ms] == 4 * [True]


def test_a_lost_reply_is_no_refusal(shared_redis: RedisServer) -> None:
    proxy = DroppingProxy(shared_redis.port)
    passed, replies = False, 0
    while not passed:
        proxy.drop_next_reply(after=replies)
        try:
            check_server(RedisAccess(proxy.url), "image_queue", BYTES_LIMIT)
        except QueueUnavailable:
            pass  # Tried again by whoever called it.
        else:
            passed = not proxy.dropped.is_set()
        replies += 1
    proxy.close()
    assert replies > 15


def test_a_memory_policy_that_is_changed_later_is_noticed_and_told_once(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(self_test, "WATCH_EVERY_S", -1.0)
    client, watch = redis_server.client(), EvictionWatch(RedisAccess(redis_server.url), "q")

    def look(**settings: str) -> tuple[float, list[str]]:
        caplog.clear()
        for name, value in settings.items():
            client.config_set(name.replace("_", "-"), value)
        watch.look()
        watch.look()
        return metrics.redis_evicts._value.get(), [r.levelname for r in caplog.records]

    assert look() == (0, [])
    assert look(maxmemory_policy="allkeys-lru") == (0, []), "harmless without a limit"
    assert look(maxmemory="100mb") == (1, ["ERROR"])
    assert "allkeys-lru: it would throw waiting pictures away" in caplog.text
    assert look(maxmemory_policy="noeviction") == (0, ["INFO"])
    redis_server.kill()
    assert look() == (0, [])


def test_a_node_that_evicts_shows_beside_one_that_does_not(
    redis_server: RedisServer, shared_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_test, "WATCH_EVERY_S", -1.0)
    client = redis_server.client()
    watches = [
        EvictionWatch(RedisAccess(server.url), name)
        for name, server in (("bad", redis_server), ("good", shared_redis))
    ]

    def look() -> float:
        for watch in watches:
            watch.look()
        return float(metrics.redis_evicts._value.get())

    client.config_set("maxmemory", "100mb")
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert look() == 1
    client.config_set("maxmemory-policy", "noeviction")
    assert look() == 0


def test_a_server_that_is_not_there_is_unavailable_not_forbidden() -> None:
    access = RedisAccess(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(QueueUnavailable):
        check_server(access, "image_queue", BYTES_LIMIT)
