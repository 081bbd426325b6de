"""A network that can be cut: web processes and workers here, Redis there, a router between them.

Each is a network namespace of its own, so nothing of the machine's own network is touched. A cut
drops packets silently, as a broken switch does: nobody is told, connections stay open.
"""

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.redis_server import RedisServer, eventually
from tests.system.stack import Place

REDIS, REDIS_ROUTER = "10.77.1.1", "10.77.1.2"
PODS, PODS_ROUTER = "10.77.2.1", "10.77.2.2"
HERE, WEB = "10.77.3.1", "10.77.3.2"
"""A second way to the web server, for clients: it is never cut."""

_NEW_NETWORK = 0x40000000


class RoutedRedis(RedisServer):
    """A Redis that is reached through the router, and from here through loopback."""

    @property
    def url(self) -> str:
        return f"redis://{REDIS}:{self.port}/0"

    def _command(self) -> list[str]:
        return [*super()._command(), "--bind", "0.0.0.0", "--protected-mode", "no"]


@dataclass
class Network(Place):
    """The place of web server and workers, and its router."""

    router: int = 0
    pods: int = 0
    """The processes that hold the namespaces."""
    _cut: list[str] = field(default_factory=list)

    def env(self, name: str) -> Mapping[str, str]:
        del name
        return {"WEB_HOST": "0.0.0.0"}

    def cut(self, *ends: str) -> None:
        """Drop what is sent to these addresses, ``REDIS`` or ``PODS``."""
        for end in ends:
            _inside(self.router, "ip", "route", "add", "blackhole", f"{end}/32")
            self._cut.append(end)

    def heal(self) -> None:
        while self._cut:
            _inside(self.router, "ip", "route", "del", "blackhole", f"{self._cut.pop()}/32")

    def sent_again(self) -> int:
        """Return how many TCP segments both sides have sent again so far."""
        # Not /proc/self: the namespace is the thread's.
        processes = ("thread-self", str(self.pods))
        return sum(
            _snmp(Path(f"/proc/{each}/net/snmp"), "Tcp", "RetransSegs") for each in processes
        )


def missing_right() -> str:
    """Return which right or program is missing here; nothing where none is."""
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"the program {program}"
    link = ("ip", "link", "add", "name", "one", "type", "veth", "peer", "name", "two")
    tried = ("unshare", "--net", *link)
    if subprocess.run(tried, capture_output=True, check=False).returncode:
        return "CAP_SYS_ADMIN and CAP_NET_ADMIN (root has them): it makes network namespaces"
    return ""


@contextmanager
def network(directory: Path) -> Iterator[Network]:
    """Make the network around this thread, and leave it at the end."""
    del directory
    with _own_network(), _namespace() as router, _namespace() as pods:
        _connect(router, pods)
        made = Network(WEB, ("nsenter", f"--net=/proc/{pods}/ns/net"), RoutedRedis, router, pods)
        yield made


@contextmanager
def _own_network() -> Iterator[None]:
    """Move this thread into an empty network, and back at the end."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Redirected later threads and processes start where the thread is that starts them.
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        _checked(libc.unshare(_NEW_NETWORK))
        _run("ip", "link", "set", "lo", "up")
        try:
            yield
        finally:
            _checked(libc.setns(before, _NEW_NETWORK))
    finally:
        os.close(before)


def _checked(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@contextmanager
def _namespace() -> Iterator[int]:
    """Start a process in a network namespace of its own; both end together."""
    own = os.readlink("/proc/thread-self/ns/net")
    holder = subprocess.Popen(["unshare", "--net", "sleep", "3600"], start_new_session=True)
    try:
        eventually(lambda: _network_of(holder.pid) not in ("", own), "a network namespace")
        _inside(holder.pid, "ip", "link", "set", "lo", "up")
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def _network_of(pid: int) -> str:
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return ""


def _connect(router: int, pods: int) -> None:
    _cable(("to-router", 0, REDIS), ("to-redis", router, REDIS_ROUTER))
    _cable(("to-router", pods, PODS), ("to-pods", router, PODS_ROUTER))
    _cable(("to-web", 0, HERE), ("to-clients", pods, WEB))
    _run("ip", "route", "add", f"{PODS}/32", "via", REDIS_ROUTER)
    _inside(pods, "ip", "route", "add", f"{REDIS}/32", "via", PODS_ROUTER)
    _inside(router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


End = tuple[str, int, str]
"""The name of an interface, the process that holds its namespace (0: here), and its address."""


def _cable(one: End, other: End) -> None:
    peer = ("peer", "name", other[0], "netns", str(other[1]))
    _inside(one[1], "ip", "link", "add", "name", one[0], "type", "veth", *peer)
    for name, holder, address in (one, other):
        _inside(holder, "ip", "address", "add", f"{address}/24", "dev", name)
        _inside(holder, "ip", "link", "set", name, "up")


def _inside(holder: int, *command: str) -> None:
    _run(*(("nsenter", f"--net=/proc/{holder}/ns/net") if holder else ()), *command)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def _snmp(path: Path, group: str, counter: str) -> int:
    names, values = (
        line.split()[1:] for line in path.read_text().splitlines() if line.startswith(f"{group}:")
    )
    return int(values[names.index(counter)])
