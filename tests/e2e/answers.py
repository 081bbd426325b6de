"""The log of the client in the cluster: one answer a line, then a summary."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from imageserve.errors import RequestError


def _codes(status: int, below: type[RequestError] = RequestError) -> set[str]:
    own = {below.code} if below.status == status else set()
    return own.union(*(_codes(status, each) for each in below.__subclasses__()))


CLEAR_REFUSALS = _codes(503)
"""The codes of a 503; docs/http-api.md."""


class BrokenLogError(Exception):
    """The log of the client is incomplete, so it shows nothing."""


@dataclass(frozen=True)
class Answer:
    """One request and what came back."""

    thread: int
    at: float
    """When it was begun, in seconds of the client's run."""
    seconds: float
    status: int
    """0: no answer."""
    labels: tuple[str, ...]
    expected: tuple[str, ...]
    files: tuple[str, ...]
    reused: bool
    """Whether its connection had been used before."""
    code: str = ""
    message: str = ""
    retry_after: str = ""

    @property
    def is_right(self) -> bool:
        return self.status == 200 and self.labels == self.expected

    @property
    def is_lost_connection(self) -> bool:
        """Whether the connection broke or was refused; a time-out is no lost connection."""
        return self.status == 0 and not self.message.startswith("TimeoutError")

    @property
    def is_clear_refusal(self) -> bool:
        """Whether the client was told to come back, and when."""
        told = self.retry_after.isdigit() and int(self.retry_after) >= 1
        return self.status == 503 and self.code in CLEAR_REFUSALS and told and bool(self.message)

    @property
    def is_explained_timeout(self) -> bool:
        return self.status == 504 and self.code == "timed_out" and bool(self.message)

    def __str__(self) -> str:
        kept = "kept" if self.reused else "new"
        what = f"{self.code} {self.message}".strip() or f"{self.labels} for {self.expected}"
        return (
            f"at {self.at:.1f} s, for {self.seconds:.1f} s, {kept} connection: {self.status} {what}"
        )


@dataclass(frozen=True)
class Report:
    """All requests of a client, in the order of their answers."""

    answers: tuple[Answer, ...]

    @property
    def failed(self) -> list[Answer]:
        return [each for each in self.answers if not each.is_right]

    @property
    def last_failure_s(self) -> float:
        """When the last failed request ended; 0 if there was none."""
        return max((each.at + each.seconds for each in self.failed), default=0.0)

    def after(self, second: float) -> list[Answer]:
        return [each for each in self.answers if each.at >= second]

    def __str__(self) -> str:
        verdicts = Counter(
            "right" if each.is_right else f"{each.status} {each.code}".strip()
            for each in self.answers
        )
        counted = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        shown = [f"  {each}" for each in self.failed[:20]]
        return "\n".join([f"{len(self.answers)} requests: {counted}", *shown])


def answers_in(log: str) -> list[Answer]:
    """Read what has been written so far; the last line may be unfinished."""
    lines = log.split("\n")[:-1]
    return [_answer(each) for each in map(_read, lines) if "summary" not in each]


def report_of(log: str) -> Report:
    """Read the log of a client that has ended. Raises BrokenLogError if it is incomplete."""
    answers = tuple(answers_in(log))
    summaries = [each["summary"] for each in map(_read, log.splitlines()) if "summary" in each]
    if len(summaries) != 1:
        raise BrokenLogError(f"the client has written no summary:\n{log[-2000:]}")
    if summaries[0]["requests"] != len(answers):
        message = f"{summaries[0]['requests']} requests, and {len(answers)} in the log"
        raise BrokenLogError(f"{message}: has the node cut it?")
    return Report(answers)


def _read(line: str) -> dict[str, Any]:
    try:
        read = json.loads(line)
    except ValueError as error:
        raise BrokenLogError(f"the client has written: {line[:500]}") from error
    if not isinstance(read, dict):
        raise BrokenLogError(f"the client has written: {line[:500]}")
    return read


def _answer(line: dict[str, Any]) -> Answer:
    return Answer(
        thread=line["thread"],
        at=line["at"],
        seconds=line["seconds"],
        status=line["status"],
        labels=tuple(line["labels"]),
        expected=tuple(line["expected"]),
        files=tuple(line["files"]),
        reused=line["reused"],
        code=line.get("code", ""),
        message=line.get("message", ""),
        retry_after=line.get("retry_after") or "",
    )
