"""The self-test: servers that pass, and its errors and warnings for others."""

import logging

import pytest
from tests.redis_server import RedisServer, free_port

from imageserve.errors import QueueForbidden, QueueUnavailable
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.self_test import check_server

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


@pytest.mark.parametrize("command", ["zadd", "lmove", "publish", "time"])
def test_a_command_that_a_script_may_not_use_is_found_too(
    redis_server: RedisServer, command: str
) -> None:
    client = redis_server.client()
    rules = ["on", ">secret", "~*", "&*", "+@all", f"-{command}"]
    client.execute_command("ACL", "SETUSER", "worker", *rules)
    access = RedisAccess(redis_server.url, username="worker", password="secret")
    with pytest.raises(QueueForbidden, match=rf"(?i)\b{command}\b"):
        check_server(access, "image_queue", BYTES_LIMIT)
    assert client.dbsize() == 0


def test_a_user_who_may_not_touch_the_queues_keys_is_found(redis_server: RedisServer) -> None:
    rules = ["on", ">secret", "~other:*", "&*", "+@all"]
    redis_server.client().execute_command("ACL", "SETUSER", "worker", *rules)
    access = RedisAccess(redis_server.url, username="worker", password="secret")
    with pytest.raises(QueueForbidden, match="Redis refused"):
        check_server(access, "image_queue", BYTES_LIMIT)


def test_a_server_that_is_not_there_is_unavailable_not_forbidden() -> None:
    access = RedisAccess(f"redis://127.0.0.1:{free_port()}/0")
    with pytest.raises(QueueUnavailable):
        check_server(access, "image_queue", BYTES_LIMIT)
