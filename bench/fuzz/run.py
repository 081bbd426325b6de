"""Feeds the cases to a service of real processes, and collects what is wrong."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.pictures import encoded, jpeg, photo
from tests.redis_server import eventually
from tests.system.stack import SOURCE, Stack, running

from bench.fuzz.answers import Malformed, read_answers
from bench.fuzz.judge import Seen, faults
from bench.fuzz.pictures import good_pictures
from bench.fuzz.player import play
from bench.fuzz.requests import picture_script, request_script
from bench.fuzz.scripts import Script
from bench.fuzz.watch import (
    HOOK,
    LONGEST_MS,
    Holdings,
    Stretch,
    faults_of_log,
    gauges,
    stretches,
)
from bench.plan import say

KINDS: dict[str, Callable[[int, int], Script]] = {
    "requests": request_script,
    "pictures": picture_script,
}
_REPEATS = 3
CLIENTS = 32
"""Connections at once, which is also how much the processes hold when they are warm."""

_SETTINGS = {
    "WEB_PROCESSES": "2",
    "UPLOAD_TIMEOUT_S": "1.5",
    "REQUEST_TIMEOUT_S": "10",
    "KEEPALIVE_S": "1",
    "MODEL": "stand-in:batch_ms=1,image_ms=0,size=64",
    "BATCH_SIZE": "32",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One script, and where it came from."""

    kind: str
    seed: int
    number: int

    @property
    def script(self) -> Script:
        return KINDS[self.kind](self.seed, self.number)

    def __str__(self) -> str:
        return f"{self.kind} --seed {self.seed} --case {self.number}"


@dataclass(slots=True)
class Result:
    """What a run has shown."""

    cases: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """Everything that is wrong, each with the case that caused it."""
    longest_ms: float = 0.0


class Fuzz:
    """One service, and everything that was sent to it."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self._ports: dict[int, list[tuple[float, Case]]] = {}
        """The cases that used a port, each with when it began."""
        self.result = Result()
        self._warm_up()
        self._before = Holdings.of(stack)
        self._began = time.time()

    def _warm_up(self) -> None:
        """Send good pictures of every format, as many at once as later, and start the decoders."""
        head = "POST /predict HTTP/1.1\r\nHost: fuzz\r\nConnection: close\r\nContent-Length: "
        large = [jpeg(2_000, 1_500), encoded(photo(900, 900), "WEBP", lossless=True)] * 4
        pictures = [*(data for _, data in good_pictures()), *large]
        posts = [f"{head}{len(data)}\r\n\r\n".encode() + data for data in pictures]
        scripts = [Script("good", (post,)) for post in posts]
        with ThreadPoolExecutor(CLIENTS) as pool:
            for _ in range(4):
                list(pool.map(lambda script: play(script, self._stack.port), scripts))
        self._settle()

    def feed(self, cases: Iterable[Case]) -> None:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for case, script, began, seen in pool.map(self._play, cases):
                self._ports.setdefault(seen.port, []).append((began, case))
                self._note(case, script, seen)

    def _play(self, case: Case) -> tuple[Case, Script, float, Seen]:
        script = case.script
        return case, script, time.time(), play(script, self._stack.port)

    def _note(self, case: Case, script: Script, seen: Seen) -> None:
        self.result.cases += 1
        try:
            answers, _ = read_answers(seen.data, head=script.head)
            self.result.statuses.update(answer.status for answer in answers)
        except Malformed:
            self.result.statuses[0] += 1
        for fault in faults(script, seen):
            self.fault(f"{case}: {fault} ({script.name})", script)

    def fault(self, text: str, script: Script | None = None) -> None:
        self.result.faults.append(text)
        say(text)
        if script is not None:
            (self._folder / f"fault-{len(self.result.faults)}.bin").write_bytes(script.sent)

    def finish(self) -> Result:
        """Judge the service as a whole."""
        self._settle()
        for fault in self._before.excess(Holdings.of(self._stack)):
            self.fault(fault)
        for fault in gauges(self._stack.http.get("/metrics").text):
            self.fault(fault)
        for program in self._stack.programs:
            for fault in faults_of_log(program.output()):
                self.fault(f"{program.name}: {fault}")
        for stretch in stretches(self._folder):
            if stretch.ended >= self._began:
                self._note_stretch(stretch)
        return self.result

    def _note_stretch(self, stretch: Stretch) -> None:
        self.result.longest_ms = max(self.result.longest_ms, stretch.ms)
        if stretch.ms <= LONGEST_MS:
            return
        case = self._case_of(stretch)
        if case and self._least_ms(case) <= LONGEST_MS:
            return
        name = f"{case}: {case.script.name}" if case else "of no known case"
        text = f"{stretch.ms:.0f} ms of processor on the event loop, {name}, at {stretch.place}"
        self.fault(text, case.script if case else None)

    def _least_ms(self, case: Case) -> float:
        """Send a case again, alone; return the least of the longest stretches it then causes.

        On a busy machine the same work takes several times the processor time now and then.
        """
        longest = []
        for _ in range(_REPEATS):
            began = time.time()
            port = play(case.script, self._stack.port).port
            self._settle()
            later = (each for each in stretches(self._folder) if each.ended > began)
            again = [each.ms for each in later if each.port == port]
            longest.append(max(again, default=0.0))
        return min(longest)

    def _case_of(self, stretch: Stretch) -> Case | None:
        used = [case for began, case in self._ports.get(stretch.port, ()) if began < stretch.ended]
        return used[-1] if used else None

    def _settle(self) -> None:
        """Wait until no connection and no job is left."""
        eventually(lambda: self._stack.idle() and not self._busy(), "everything has ended", 60)

    def _busy(self) -> bool:
        metrics = self._stack.http.get("/metrics").text
        return bool(gauges(metrics))


@contextmanager
def fuzzing(directory: Path, redis: str) -> Iterator[Fuzz]:
    """Start a service with the hook inside; what the fuzz finds is written to ``directory``."""
    env = {**_SETTINGS, "PYTHONPATH": f"{HOOK}:{SOURCE}", "FUZZ_FOLDER": str(directory)}
    with running(directory, redis, workers=1, redis_args=(), place=None, **env) as stack:
        yield Fuzz(stack, directory)
