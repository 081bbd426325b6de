"""Whether what came back is what the contract allows. Pure."""

from dataclasses import dataclass

from bench.fuzz.answers import Answer, Malformed, faults_of, read_answers
from bench.fuzz.scripts import Expected, Script

CLOSED, RESET, OPEN, REFUSED = "closed", "reset", "open", "refused"


@dataclass(frozen=True, slots=True)
class Seen:
    """What the client of one script saw."""

    data: bytes
    end: str
    """``closed`` or ``reset`` by the server, left ``open`` for longer than any time-out, or the
    connection was ``refused``."""
    port: int = 0
    """The client's, by which the server's own measurements know it."""


def faults(script: Script, seen: Seen) -> list[str]:
    """Return everything that is wrong with one case."""
    try:
        answers, rest = read_answers(seen.data, head=script.head)
    except Malformed as error:
        return [f"no HTTP: {error}"]
    unimplemented = b"transfer-encoding" in script.sent.lower()
    found = [each for a in answers for each in faults_of(a, may_be_unimplemented=unimplemented)]
    if rest:
        found.append(f"an answer that breaks off: {rest[:80]!r}")
    if script.must_be_answered and not answers:
        found.append(f"no answer to a whole head; the connection was {seen.end}")
    if seen.end in (OPEN, REFUSED) and not (
        script.expected and len(answers) == len(script.expected)
    ):
        found.append(f"the connection was {seen.end}")
    return found + _differences(script.expected, answers)


def _differences(expected: tuple[Expected, ...] | None, answers: list[Answer]) -> list[str]:
    if expected is None:
        return []
    if len(answers) != len(expected):
        return [f"{len(answers)} answers to {len(expected)} right requests"]
    pairs = zip(expected, answers, strict=True)
    return [each for number, pair in enumerate(pairs, 1) for each in _difference(number, *pair)]


def _difference(number: int, expected: Expected, answer: Answer) -> list[str]:
    if expected.status is None or answer.status in (503, 504):
        return []  # Refused for load: the other rules judge it.
    if answer.status != expected.status:
        return [f"answer {number} is {answer.status}, not {expected.status}: {answer.body[:200]!r}"]
    if expected.label is not None and answer.label != expected.label:
        return [f"answer {number} belongs to another picture"]
    return []
