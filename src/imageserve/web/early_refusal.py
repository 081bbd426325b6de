"""Refusing a picture when there is too much already: without Flask, by its head alone.

A refused picture is not read: its bytes are thrown away as they come, and where they are few the
connection goes on. That costs a small part of an answer.
"""

import logging
import struct
from collections.abc import Mapping
from socket import IPPROTO_TCP, TCP_INFO
from typing import Any

from imageserve import metrics
from imageserve.errors import Busy
from imageserve.web.greenlets import silent_timeout
from imageserve.web.refusals import NO_HEADERS, raw_response, request_id

log = logging.getLogger(__name__)

SMALL_BYTES = 2**20
DISCARD_S = 2.0
"""After a refusal the rest of a body of this size is thrown away within this time, and the
connection is kept. Otherwise it is closed."""

_LAST_DATA_RECEIVED = 52
"""Where Linux's ``struct tcp_info`` has the milliseconds since the last data came, 32 bits."""

_waste = bytearray(2**16)

_refused_total = metrics.requests_total.labels("predict", str(int(Busy.status)), Busy.code)


def is_picture(req: Any) -> bool:
    """Whether gunicorn has read the head of a request that carries pictures."""
    return bool(req.method == "POST" and req.path == "/predict")


def age_s(sock: Any) -> float:
    """Return how long what a client has sent last has been here, as the kernel knows it."""
    try:
        told = sock.getsockopt(IPPROTO_TCP, TCP_INFO, _LAST_DATA_RECEIVED + 4)
        return float(struct.unpack_from("I", told, _LAST_DATA_RECEIVED)[0]) / 1000
    except (OSError, struct.error):
        return 0.0  # Another kind of socket.


def refuse(
    req: Any, sock: Any, error: Busy, *, draining: bool, more: Mapping[str, str] = NO_HEADERS
) -> None:
    """Answer a request of which only the head was read, with ``more`` headers.

    The next request of the connection then begins where this one ends. Raises StopIteration where
    the connection cannot be kept.
    """
    headers = dict(req.headers)
    its_id = request_id(headers.get("X-REQUEST-ID"))
    kept = not draining and _can_be_kept(req, headers)
    _refused_total.inc()
    log.debug("refused early", extra={"fields": {"request_id": its_id}})
    sock.sendall(raw_response(error, its_id, close=not kept, more=more))
    if not (kept and _discard_body(req.body.reader, sock)):
        raise StopIteration


def _can_be_kept(req: Any, headers: Mapping[str, str]) -> bool:
    if req.should_close() or "EXPECT" in headers:  # It may or may not send its body now.
        return False
    # A chunked body has no length.
    length: int = getattr(req.body.reader, "length", SMALL_BYTES + 1)
    return length <= SMALL_BYTES


def _discard_body(reader: Any, sock: Any) -> bool:
    """Read a body of known length and drop it; return whether it came whole and in time."""
    read_ahead = reader.unreader.take_buffered()
    left: int = reader.length - len(read_ahead)
    if left < 0:  # The next request has come too.
        reader.unreader.unread(read_ahead[reader.length :])
    with silent_timeout(DISCARD_S if left > 0 else None):
        while left > 0 and (count := sock.recv_into(_waste, min(left, len(_waste)))):
            left -= count
    if left <= 0:
        reader.length = 0
    return left <= 0
