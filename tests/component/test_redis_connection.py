"""Connections to a real Redis: addresses, credentials, TLS, Sentinel, timeouts."""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.queues import RedisQueue
from tests.redis_server import (
    DroppingProxy,
    Executable,
    QueueMaker,
    RedisSentinel,
    RedisServer,
    eventually,
    free_port,
    running,
)

from imageserve.errors import QueueForbidden, QueueUnavailable, SettingsError
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.redis.address import nodes, split_address
from imageserve.queue.redis.connection import RedisAccess, connect, redis_errors
from imageserve.queue.wire import Job

PASSWORD = "p@ss/w#rd?%20"
"""Characters that have a meaning in a URL."""

JOB = Job("a", "resnet50", (1, 1, 3), 5, "", "trace", 60_000)


def pong(access: RedisAccess, *, timeout_s: float = 2.0) -> bool:
    client = connect(access, key="q", retries=0, timeout_s=timeout_s, connections=1)
    try:
        with redis_errors():
            return bool(client.ping())
    finally:
        client.connection_pool.disconnect()


# Addresses.


@pytest.mark.parametrize(
    ("url", "where"),
    [
        pytest.param("redis://host", ("host", 6379, 0), id="host"),
        pytest.param("redis://host:7000", ("host", 7000, 0), id="port"),
        pytest.param("redis://host:7000/3", ("host", 7000, 3), id="database"),
        pytest.param("redis://host/", ("host", 6379, 0), id="slash"),
        pytest.param("redis://10.0.0.7:7000", ("10.0.0.7", 7000, 0), id="IPv4"),
        pytest.param("redis://[fd00::7]:7000/1", ("fd00::7", 7000, 1), id="IPv6"),
        pytest.param("rediss://host:7000/3", ("host", 7000, 3), id="TLS"),
    ],
)
def test_an_address_says_where_redis_is(url: str, where: tuple[str, int, int]) -> None:
    client = connect(RedisAccess(url), key="q", retries=0, timeout_s=1, connections=1)
    options = client.connection_pool.connection_kwargs
    assert (options["host"], options["port"], options["db"]) == where
    encrypted = issubclass(client.connection_pool.connection_class, redis.SSLConnection)
    assert encrypted is url.startswith("rediss")


@pytest.mark.parametrize("scheme", ["redis+sentinel", "rediss+sentinel"])
@pytest.mark.parametrize(
    ("path", "database"),
    [
        pytest.param("/mymaster/2", 2, id="database"),
        pytest.param("/mymaster", 0, id="no database"),
        pytest.param("/mymaster/", 0, id="slash"),
    ],
)
def test_a_sentinel_address_names_the_sentinels_and_the_master(
    scheme: str, path: str, database: int
) -> None:
    access = RedisAccess(f"{scheme}://h1:26380,h2,[fd00::7]:26381{path}")
    pool: Any = connect(access, key="q", retries=0, timeout_s=1, connections=1).connection_pool
    assert (pool.service_name, pool.connection_kwargs["db"]) == ("mymaster", database)
    options = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    nodes = [(each["host"], each["port"]) for each in options]
    assert nodes == [("h1", 26380), ("h2", 26379), ("fd00::7", 26381)]
    encrypted = issubclass(pool.connection_class, redis.SSLConnection)
    assert encrypted is scheme.startswith("rediss")


def test_a_cluster_address_names_its_nodes() -> None:
    parts = split_address("redis+cluster://h1,h2:7001,[fd00::7]")

    assert nodes(parts) == [("h1", 6379), ("h2", 7001), ("fd00::7", 6379)]


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("", id="nothing"),
        pytest.param("localhost:6379", id="no scheme"),
        pytest.param("http://localhost:6379", id="another scheme"),
        pytest.param("redis://", id="no host"),
        pytest.param("redis:///0", id="no host, a database"),
        pytest.param("redis://:6379", id="no host, a port"),
        pytest.param("redis://host:", id="an empty port"),
        pytest.param("redis://host:port", id="a port that is no number"),
        pytest.param("redis://host:0", id="port 0"),
        pytest.param("redis://host:65536", id="a port too large"),
        pytest.param("redis://host:7000:7001", id="two ports"),
        pytest.param("redis://host/one", id="a database that is no number"),
        pytest.param("redis://host/-1", id="a negative database"),
        pytest.param("redis://host/0/1", id="two databases"),
        pytest.param("redis://host?db=1", id="a query"),
        pytest.param("redis://host/0#1", id="a fragment"),
        pytest.param("redis://[fd00::7", id="half an IPv6 address"),
        pytest.param("redis://h1:26379,h2:26379", id="two hosts without Sentinel"),
        pytest.param("unix://", id="no socket"),
        pytest.param("unix://relative/redis.sock", id="a relative socket"),
        pytest.param("redis+sentinel://h1:26379,h2:26379", id="no master"),
        pytest.param("redis+sentinel:///master", id="no sentinel"),
        pytest.param("redis+sentinel://h1,,h2/master", id="an empty sentinel"),
        pytest.param("redis+sentinel://h1:99999/master", id="a sentinel's port too large"),
        pytest.param("redis+sentinel://h1/master/one", id="a master's database no number"),
        pytest.param("redis+cluster://", id="no node"),
        pytest.param("redis+cluster://h1,,h2", id="an empty node"),
        pytest.param("redis+cluster://h1:6379,h2:70000", id="a node's port too large"),
        pytest.param("redis+cluster://h1:6379/0", id="a cluster's database"),
    ],
)
def test_an_address_that_makes_no_sense_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match="REDIS_URL"):
        connect(RedisAccess(url), key="q", retries=0, timeout_s=1, connections=1)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("redis://:s3cret@host", id="plain"),
        pytest.param("redis://user:s3cret@host:6379/0", id="with a user"),
        pytest.param("redis://:s3cret@ss/w#rd@host", id="special characters"),
        pytest.param("redis://:s3cret?x@host", id="a question mark"),
        pytest.param("redis://:s3cret/x@host", id="a slash"),
        pytest.param("redis://:s3cret#x@host", id="a hash"),
        pytest.param("redis://:s3cret\u2100@host", id="a character that a host cannot have"),
        pytest.param("redis://:[s3cret@host", id="a bracket"),
        pytest.param("unix://:s3cret@/redis.sock", id="a socket"),
        pytest.param("redis+sentinel://:s3cret@h1/master", id="a sentinel"),
        pytest.param("http://:s3cret@host", id="another scheme"),
    ],
)
def test_a_password_in_the_address_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(RedisAccess(url), key="q", retries=0, timeout_s=1, connections=1)
    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r}"
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_access_shows_no_password_when_it_is_printed() -> None:
    access = RedisAccess(password="s3cret", sentinel_password="s3cret")
    assert "s3cret" not in repr(access)


# Connections that succeed.


def test_a_unix_socket_carries_a_job(
    redis_executable: Executable, tmp_path: Path, make_queue: QueueMaker
) -> None:
    socket = tmp_path / "redis.sock"
    options = ["--unixsocket", str(socket)]
    with running(RedisServer(redis_executable.found(), tmp_path / "redis", *options)):
        queue = make_queue(f"unix://{socket}")
        queue.enqueue(JOB, b"\0\0\0", 60_000, Limits())
        queue.wait(1)
        assert len(queue.claim(1, Lease(), redelivered=False).entries) == 1


@pytest.fixture
def locked_server(redis_server: RedisServer) -> RedisServer:
    """A server that only lets in ``worker`` with its password."""
    client = redis_server.client()
    rules = ["on", f">{PASSWORD}", "~*", "&*", "+@all"]
    client.execute_command("ACL", "SETUSER", "worker", *rules)
    client.execute_command("ACL", "SETUSER", "default", "resetpass", f">{PASSWORD}!")
    return redis_server


def test_user_and_password_get_in_whatever_characters_they_have(locked_server: RedisServer) -> None:
    assert pong(RedisAccess(locked_server.url, username="worker", password=PASSWORD))
    assert pong(RedisAccess(locked_server.url, password=f"{PASSWORD}!"))


@pytest.mark.parametrize(
    ("username", "password"),
    [
        pytest.param("worker", "wrong", id="a wrong password"),
        pytest.param("nobody", PASSWORD, id="an unknown user"),
        pytest.param(None, None, id="no password"),
    ],
)
def test_wrong_credentials_are_forbidden_not_unavailable(
    locked_server: RedisServer, username: str | None, password: str | None
) -> None:
    access = RedisAccess(locked_server.url, username=username, password=password)
    with pytest.raises(QueueForbidden) as caught:
        pong(access)
    assert PASSWORD not in str(caught.value)


def _openssl(directory: Path, *args: str) -> None:
    subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)


def _make_authority(directory: Path, name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", f"{name}.key", "-out", f"{name}.crt"]
    _openssl(directory, "req", "-x509", *key, *files, "-days", "2", "-subj", f"/CN={name}")


def _make_certificate(directory: Path, authority: str, alternative_name: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request = ["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server"]
    _openssl(directory, "req", *key, *request)
    (directory / "names").write_text(f"subjectAltName={alternative_name}\n")
    sign = ["-CA", f"{authority}.crt", "-CAkey", f"{authority}.key", "-CAcreateserial"]
    files = ["-in", "server.csr", "-out", "server.crt", "-extfile", "names"]
    _openssl(directory, "x509", "-req", *files, *sign, "-days", "2")


StartTls = Callable[[str], RedisAccess]


@pytest.fixture
def start_tls(redis_executable: Executable, tmp_path: Path) -> Iterator[StartTls]:
    """Start a server whose certificate holds for the given name; returns its address."""
    executable, started = redis_executable.found(), []

    def start(alternative_name: str) -> RedisAccess:
        _make_authority(tmp_path, "ca")
        _make_certificate(tmp_path, "ca", alternative_name)
        port = free_port()
        files = ["--tls-cert-file", str(tmp_path / "server.crt")]
        files += ["--tls-key-file", str(tmp_path / "server.key")]
        files += ["--tls-ca-cert-file", str(tmp_path / "ca.crt"), "--tls-auth-clients", "no"]
        server = RedisServer(executable, tmp_path / "redis", "--tls-port", str(port), *files)
        started.append(server)
        server.start()
        return RedisAccess(f"rediss://127.0.0.1:{port}/0", ca_file=str(tmp_path / "ca.crt"))

    if not _speaks_tls(executable):
        pytest.skip(f"{redis_executable} was built without TLS")
    yield start
    for server in started:
        server.stop()


def _speaks_tls(executable: str) -> bool:
    linked = subprocess.run(["ldd", executable], capture_output=True, text=True, check=False)
    return "libssl" in linked.stdout


def test_an_encrypted_connection_carries_a_job(start_tls: StartTls, make_queue: QueueMaker) -> None:
    access = start_tls("IP:127.0.0.1")
    queue = RedisQueue(access, "image_queue")
    make_queue.close_later(queue)
    pixels = bytes(range(256)) * 4096
    queue.enqueue(JOB, pixels, 60_000, Limits())
    queue.wait(1)
    assert len(queue.claim(1, Lease(), redelivered=False).entries) == 1
    assert queue.pixels([JOB.id]) == [pixels]


def test_a_certificate_of_another_authority_is_refused(start_tls: StartTls, tmp_path: Path) -> None:
    access = start_tls("IP:127.0.0.1")
    _make_authority(tmp_path, "other")
    for ca_file in (str(tmp_path / "other.crt"), None):
        with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            pong(replace(access, ca_file=ca_file))


def test_a_certificate_for_another_name_is_refused(start_tls: StartTls) -> None:
    access = start_tls("DNS:another.example")
    with pytest.raises(QueueUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        pong(access)


@pytest.fixture
def sentinel_url(redis_server: RedisServer, tmp_path: Path) -> Iterator[str]:
    """A sentinel that knows ``redis_server`` as ``mymaster``; an address with a dead one first."""
    executable = redis_server.executable
    sentinel = RedisSentinel(executable, tmp_path / "sentinel", "mymaster", redis_server.port)
    with running(sentinel):
        nodes = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
        yield f"redis+sentinel://{nodes}/mymaster/0"


def test_sentinel_leads_to_the_master(
    sentinel_url: str, redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(sentinel_url)
    admission = queue.enqueue(JOB, b"\0\0\0", 60_000, Limits())
    queue.wait(1)
    assert admission.code is EnqueueCode.ACCEPTED
    assert len(queue.claim(1, Lease(), redelivered=False).entries) == 1
    assert redis_server.client().exists(queue.keys.stats)


def test_an_unknown_master_is_unavailable(sentinel_url: str) -> None:
    with pytest.raises(QueueUnavailable, match="other"):
        pong(RedisAccess(sentinel_url.replace("mymaster", "other")))


@pytest.mark.parametrize("way", ["direct", "sentinel"])
def test_callers_beyond_the_last_connection_wait_for_one(
    way: str, redis_server: RedisServer, sentinel_url: str
) -> None:
    url = sentinel_url if way == "sentinel" else redis_server.url
    client = connect(RedisAccess(url), key="q", retries=0, timeout_s=5, connections=2)
    errors: list[Exception] = []

    def block() -> None:
        try:
            client.blpop(["nothing"], timeout=0.05)
        except redis.RedisError as error:
            errors.append(error)

    threads = [threading.Thread(target=block) for _ in range(12)]
    for thread in threads:
        thread.start()
    connected = redis_server.client().client_list()
    for thread in threads:
        thread.join()
    client.connection_pool.disconnect()
    assert errors == []
    assert len([each for each in connected if each["cmd"] == "blpop"]) <= 2


# An address that leads to another server.


def test_connections_to_a_master_that_became_a_replica_are_given_up(
    redis_server: RedisServer, tmp_path: Path, make_queue: QueueMaker
) -> None:
    """A managed Redis does that: the old master lives on, and refuses every write for ever."""
    new = RedisServer(redis_server.executable, tmp_path / "new")
    proxy = DroppingProxy(redis_server.port)
    try:
        new.start()
        queue = make_queue(proxy.url)
        queue.enqueue(JOB, b"\0\0\0", 60_000, Limits())
        queue.wait(0.01)  # Now each of its three clients has a connection.
        queue.claim(1, Lease(), redelivered=False)
        redis_server.client().replicaof("127.0.0.1", str(free_port()))
        # The address leads to the old one for a while yet.
        for call in (lambda: queue.wait(0.01), lambda: queue.claim(1, Lease(), redelivered=False)):
            with pytest.raises(QueueUnavailable, match="replica"):
                call()
        proxy.server_port = new.port

        assert queue.enqueue(JOB, b"\0\0\0", 60_000, Limits()).code is EnqueueCode.ACCEPTED
        queue.wait(0.01)
        assert len(queue.claim(1, Lease(), redelivered=False).entries) == 1
    finally:
        proxy.close()
        new.stop()


# Connections that fail.


def test_a_port_where_nothing_listens_is_an_error_at_once(make_queue: QueueMaker) -> None:
    queue = make_queue(f"redis://127.0.0.1:{free_port()}/0")
    started = time.monotonic()
    for call in (queue.snapshot, lambda: queue.wait(2), lambda: queue.results(["a"])):
        with pytest.raises(QueueUnavailable):
            call()
    with pytest.raises(QueueUnavailable):
        queue.claim(1, Lease(), redelivered=True)
    with pytest.raises(QueueUnavailable):
        queue.enqueue(JOB, b"\0\0\0", 1000, Limits())
    assert time.monotonic() - started < 0.8


def test_a_host_that_does_not_exist_is_unavailable(make_queue: QueueMaker) -> None:
    with pytest.raises(QueueUnavailable):
        make_queue("redis://no-such-host.invalid").snapshot()


def test_a_server_that_hangs_is_unavailable_after_the_command_timeout(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(redis_server.url)
    queue.claim(1, Lease(), redelivered=True)
    redis_server.pause()
    started = time.monotonic()
    with pytest.raises(QueueUnavailable):
        queue.claim(1, Lease(), redelivered=True)
    assert 1.5 < time.monotonic() - started < 4
    redis_server.resume()
    assert queue.claim(1, Lease(), redelivered=True).entries == ()


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["CONFIG", "SET", "min-replicas-to-write", "1"], id="no replica left"),
        pytest.param(["REPLICAOF", "127.0.0.1", "1"], id="it is a replica now"),
    ],
)
def test_a_server_that_takes_no_writes_for_now_is_unavailable(
    redis_server: RedisServer, make_queue: QueueMaker, settings: list[str]
) -> None:
    queue = make_queue(redis_server.url)
    queue.enqueue(JOB, b"\0\0\0", 60_000, Limits())
    token = queue.claim(1, Lease(), redelivered=False).token
    redis_server.client().execute_command(*settings)
    with pytest.raises(QueueUnavailable):
        queue.enqueue(replace(JOB, id="b"), b"\0\0\0", 60_000, Limits())
    with pytest.raises(QueueUnavailable):
        queue.claim(1, Lease(), redelivered=True)
    with pytest.raises(QueueUnavailable):
        queue.extend(token, ["a"], 1000)
    with pytest.raises(QueueUnavailable):
        queue.wait(0.1)


def test_a_server_that_is_busy_with_a_script_is_unavailable(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    client, queue = redis_server.client(), make_queue(redis_server.url)
    client.config_set("lua-time-limit", 10)
    endless = threading.Thread(target=_run_endless_script, args=(redis_server.client(),))
    endless.start()
    try:
        eventually(lambda: _is_busy(client), "a busy server")
        with pytest.raises(QueueUnavailable):
            queue.claim(1, Lease(), redelivered=True)
    finally:
        client.script_kill()
        endless.join()


def _run_endless_script(client: "redis.Redis") -> None:
    with pytest.raises(redis.ResponseError):
        client.eval("while true do end", 0)


def _is_busy(client: "redis.Redis") -> bool:
    try:
        client.get("anything")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False
