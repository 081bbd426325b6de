"""Reads what a server sent, strictly: every deviation from HTTP or from the contract is a fault."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [\x20-\x7e]*)?")
_HEADER = re.compile(rb"([A-Za-z0-9!#$%&'*+.^_`|~-]+):[ \t]*([\x20-\x7e\t]*?)[ \t]*")
_REPR = re.compile(r"(?:^|[ (=:,])b['\"]|\\x[0-9a-f]{2}| object at 0x|Traceback")


class Malformed(Exception):
    """This is not an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes

    @property
    def label(self) -> str | None:
        """The best label of one picture."""
        if self.headers.get("content-type") == "application/octet-stream":
            return None
        body = json.loads(self.body)
        return body["predictions"][0]["label"] if "predictions" in body else None


def read_answers(data: bytes, *, head: bool = False) -> tuple[list[Answer], bytes]:
    """Return all whole answers but ``100 Continue``, and the rest.

    Raises Malformed.
    """
    answers = []
    while (found := _read_one(data, head=head)) is not None:
        answer, data = found
        if answer.status != 100:
            answers.append(answer)
    return answers, data


def _read_one(data: bytes, *, head: bool) -> tuple[Answer, bytes] | None:
    text, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        return None
    status, headers = _head(text)
    has_body = status >= 200 and status not in (204, 304) and not head
    length = int(headers.get("content-length", "0")) if has_body else 0
    if has_body and "content-length" not in headers:
        raise Malformed("an answer without Content-Length")
    if len(rest) < length:
        return None
    return Answer(status, headers, rest[:length]), rest[length:]


def _head(text: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = text.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None:
        raise Malformed(f"the status line {first[:80]!r}")
    headers = {}
    for line in lines:
        header = _HEADER.fullmatch(line)
        if header is None:
            raise Malformed(f"the header {line[:80]!r}")
        headers[header[1].decode().lower()] = header[2].decode()
    return int(status[1]), headers


def faults_of(answer: Answer, *, may_be_unimplemented: bool) -> list[str]:
    """Return what the contract forbids in this answer."""
    faults = []
    if answer.status >= 500 and not _is_allowed(answer, may_be_unimplemented):
        faults.append(f"status {answer.status}: {answer.body[:200]!r}")
    if answer.headers.get("content-type") == "application/octet-stream":
        faults += _faults_of_vectors(answer)
    if answer.status >= 400 and answer.body:
        faults += _faults_of_error(answer)
    return faults


def _faults_of_vectors(answer: Answer) -> list[str]:
    shape = answer.headers.get("x-shape", "")
    sides = [int(side) for side in shape.split(",")] if re.fullmatch(r"\d+(,\d+)?", shape) else [0]
    if answer.status == 200 and len(answer.body) == 4 * math.prod(sides) > 0:
        return []
    return [f"{len(answer.body)} bytes with status {answer.status} and the shape {shape[:40]!r}"]


def _is_allowed(answer: Answer, may_be_unimplemented: bool) -> bool:
    if answer.status == 503:
        return bool(re.fullmatch("[1-9][0-9]*", answer.headers.get("retry-after", "")))
    return answer.status == 504 or (answer.status == 501 and may_be_unimplemented)


def _faults_of_error(answer: Answer) -> list[str]:
    try:
        body = json.loads(answer.body)
        code, message = body["error"]["code"], body["error"]["message"]
        is_told = body["request_id"] == answer.headers.get("x-request-id")
    except (ValueError, KeyError, TypeError):
        return [f"status {answer.status} without the shape of an error: {answer.body[:200]!r}"]
    faults = []
    if body["success"] is not False or not code or not message or not is_told:
        faults.append(f"an error that is not whole: {answer.body[:200]!r}")
    if _REPR.search(message):
        faults.append(f"a message with Python in it: {message[:200]!r}")
    return faults
