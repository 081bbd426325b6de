"""From a parsed head to the application and back, for pictures: what gunicorn does for any request.

gunicorn makes two objects, a dictionary of 30 entries and four closures for each request, looks its
settings up in each step and checks each header that the application sends. Pictures have one
application, and its headers are known.
"""

import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from gunicorn.http.message import Request, _ip_in_allow_list

from imageserve.web.calls import Reply, status_line

CLOSE = ("Connection", "close")


def environ_of(req: Any, sock: Any) -> dict[str, Any]:
    """Return what the application reads of a WSGI environ."""
    environ = {
        "REQUEST_METHOD": req.method,
        "PATH_INFO": req.path,
        "QUERY_STRING": req.query,
        "wsgi.url_scheme": req.scheme,
        "wsgi.input": req.body,
        "wsgi.input_terminated": True,
        "gunicorn.socket": sock,
    }
    for name, value in req.headers:
        key = _key(name)
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    return environ


@lru_cache(maxsize=1024)
def _key(name: str) -> str:
    if name in ("CONTENT-TYPE", "CONTENT-LENGTH"):
        return name.replace("-", "_")
    return "HTTP_" + name.replace("-", "_")


def as_bytes(
    reply: Reply, version: tuple[int, int], more: Mapping[str, str], *, close: bool
) -> bytes:
    """Return a whole answer with ``more`` headers; ``close``: the connection ends."""
    lines = [
        f"HTTP/{version[0]}.{version[1]} {status_line(reply.status)}",
        "Server: gunicorn",
        f"Date: {_date(int(time.time()))}",
        f"Connection: {'close' if close else 'keep-alive'}",
        *(f"{name}: {value}" for name, value in reply.headers if name != CLOSE[0]),
        *(f"{name}: {value}" for name, value in more.items()),
        "\r\n",
    ]
    return "\r\n".join(lines).encode("latin-1") + reply.body


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


class PlainConfig:
    """gunicorn's configuration as plain attributes: its own finds each in two calls."""

    def __init__(self, cfg: Any) -> None:
        self.__dict__.update({name: getattr(cfg, name) for name in cfg.settings})
        self.is_ssl = cfg.is_ssl
        self._cfg = cfg

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cfg, name)


@lru_cache(maxsize=1024)
def _is_proxy(address: str, cfg: PlainConfig) -> bool:
    networks = cfg.forwarded_allow_networks()
    return bool(_ip_in_allow_list(address, cfg.forwarded_allow_ips, networks))


class Head(Request):  # type: ignore[misc]
    """A request head. Whether its sender is a proxy is found out once, not for each request."""

    def _peer_is_trusted_proxy(self) -> bool:
        return not isinstance(self.peer_addr, tuple) or _is_proxy(self.peer_addr[0], self.cfg)
