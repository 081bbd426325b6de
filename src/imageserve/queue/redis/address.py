"""Reads REDIS_URL strictly: an address that redis-py would misread is refused."""

import re
from urllib.parse import SplitResult

from imageserve.errors import SettingsError

Node = tuple[str, int]
"""Host and port."""

_SCHEMES = (
    "redis",
    "rediss",
    "unix",
    "redis+sentinel",
    "rediss+sentinel",
    "redis+cluster",
    "rediss+cluster",
)
# Not urlsplit: some versions of it refuse several hosts where one of them is in brackets.
_ADDRESS = re.compile(r"(?:([a-z+]+)://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?")
_HOST = re.compile(r"(?:\[(?P<ipv6>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]]+))(?::(?P<port>\d{1,5}))?")


def split_address(url: str) -> SplitResult:
    """Take the address apart, refusing what redis-py would silently misread.

    ``redis://:p@ss/w#rd@host`` is, to a URL parser, the host ``ss`` with a path and a fragment.

    Raises SettingsError.
    """
    match = _ADDRESS.fullmatch(url.strip())
    if match is None:
        raise _bad_url("it is not an address")
    parts = SplitResult(*(part or "" for part in match.groups()))
    if parts.scheme not in _SCHEMES:
        raise _bad_url(f"it must begin with one of {', '.join(s + '://' for s in _SCHEMES)}")
    if "@" in parts.netloc + parts.path + parts.query + parts.fragment:
        raise _bad_url("put user and password into REDIS_USERNAME and REDIS_PASSWORD instead")
    if parts.query or parts.fragment:
        raise _bad_url("it must not have a part behind ? or #")
    _check_place(parts)
    return parts


def _check_place(parts: SplitResult) -> None:
    if parts.scheme == "unix":
        if not parts.path or parts.netloc:
            raise _bad_url("write unix:///path/to/the.sock")
        return
    if not parts.netloc:
        raise _bad_url("it names no host")
    _check_path(parts)
    if len(nodes(parts)) > 1 and "+" not in parts.scheme:
        raise _bad_url("several hosts want +sentinel or +cluster behind the scheme")


def _check_path(parts: SplitResult) -> None:
    kind = parts.scheme.partition("+")[2]
    if kind == "sentinel" and not re.fullmatch(r"/[^/]+(/\d*)?/?", parts.path):
        raise _bad_url(f"write {parts.scheme}://host:26379,host:26379/master-name/0")
    if kind == "cluster" and parts.path.strip("/"):
        raise _bad_url(f"write {parts.scheme}://host:6379,host:6379; a cluster has no databases")
    if not kind and not re.fullmatch(r"(/\d*)?", parts.path):
        raise _bad_url(f"{parts.path!r} is not a database number")


def nodes(parts: SplitResult) -> list[Node]:
    """Return the hosts and ports that the address names.

    Raises SettingsError.
    """
    default_port = 26379 if parts.scheme.endswith("+sentinel") else 6379
    return [_host_and_port(node, default_port) for node in parts.netloc.split(",")]


def _host_and_port(node: str, default_port: int) -> Node:
    match = _HOST.fullmatch(node)
    port = int((match and match["port"]) or default_port)
    if match is None or not 0 < port < 65536:
        raise _bad_url(f"{node!r} is not host:port")
    return match["ipv6"] or match["name"], port


def database(path: str) -> int:
    """Return the number of the database that a path names; 0 where it names none."""
    return int(path.strip("/") or 0)


def _bad_url(problem: str) -> SettingsError:
    # The address itself is not repeated: it may hold a password.
    return SettingsError(f"REDIS_URL cannot be used: {problem}")
