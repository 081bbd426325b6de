"""One model's memory of the week, kept in Redis, and the pods that its forecast wants now."""

import logging
from dataclasses import dataclass
from typing import Any, Protocol

from imageserve.autoscaler.decision import Foreseen
from imageserve.autoscaler.forecast import Expected, Forecast, lead_s
from imageserve.autoscaler.memory import STEP_S, STEPS, Memory, Recording, decode_memory
from imageserve.autoscaler.policy import Policy
from imageserve.errors import QueueError

log = logging.getLogger(__name__)


class ArrivalsStore(Protocol):
    """Where a memory outlives the process."""

    def arrivals(self, queue: str) -> bytes:
        """Return the stored memory; empty where there is none. Raises QueueError."""

    def keep_arrivals(self, queue: str, value: bytes, keep_s: int) -> None:
        """Store a memory for so long. Raises QueueError."""


@dataclass(frozen=True, slots=True)
class Counted:
    """The counter of arrivals at one instant."""

    at_s: float
    """Unix time."""
    run: str
    """The run of Redis: in another one the counter starts again."""
    count: int


class Foresight:
    """What is known of one model's weeks. One thread calls it."""

    def __init__(self, policy: Policy, queue: str = "", store: ArrivalsStore | None = None) -> None:
        """Without ``store`` the memory ends with the process."""
        self.memory = Memory()
        self.coming: tuple[Expected, ...] = ()
        """The jumps that are expected in this step and the next ones."""
        self._policy = policy
        self._queue = queue
        self._store = store
        self._recording = Recording()
        self._run = ""
        self._number: int | None = None
        self._capacity_per_s: float | None = None
        self._problem = ""

    def count(self, now: Counted, *, leading: bool) -> None:
        """Add a count; once a step, exchange the memory with Redis, where the leader writes it."""
        if now.run != self._run:
            self._recording, self._run = Recording(), now.run
        number = self._recording.number
        self._recording, step = self._recording.add(now.at_s, now.count)
        if step is not None:
            self.memory = self.memory.add(number, step)
        if self._recording.number != self._number:
            self._number = self._recording.number
            self._exchange(is_written=leading and step is not None)
            self._capacity_per_s = None

    def foreseen(
        self, now_s: float, capacity_per_s: float | None, pod_start_s: float
    ) -> Foreseen | None:
        """Return what should be there for a jump that is expected within the start of a pod."""
        if capacity_per_s is None or self._number is None:
            return None
        if self._capacity_per_s is None:  # Once a step: it is measured anew all the time.
            self._capacity_per_s = capacity_per_s
            self._expect(self._number, pod_start_s)
        due = [
            each
            for each in self.coming
            if now_s < each.end_s
            and each.start_s - now_s <= lead_s(self._policy, pod_start_s, each.pods)
        ]
        if not due:
            return None
        jump = max(due, key=lambda each: each.pods)
        return Foreseen(jump.pods, jump.text)

    def look(self, now_s: float) -> None:
        """Read the stored memory without counting, to say what it expects."""
        self._number = int(now_s // STEP_S)
        self._exchange(is_written=False)

    def _expect(self, number: int, pod_start_s: float) -> None:
        forecast = Forecast(self.memory, self._policy, self._capacity_per_s or 0.0, pod_start_s)
        ahead_s = STEP_S + lead_s(self._policy, pod_start_s, self._policy.max_replicas)
        steps = range(number, number + 1 + int(ahead_s // STEP_S) + 1)
        found = [forecast.expected(each) for each in steps]
        self.coming = tuple(each for each in found if each is not None)

    # -- Redis --------------------------------------------------------------------------------

    def _exchange(self, *, is_written: bool) -> None:
        if self._store is None:
            return
        try:
            self.memory = self._read(self._store).until(self._number or 0).merged(self.memory)
            if is_written:
                self._store.keep_arrivals(self._queue, self.memory.encoded(), STEPS * STEP_S)
        except QueueError as error:
            self._note(f"the memory of arrivals is kept in this process only: {error}")
        else:
            self._problem = ""

    def _read(self, store: ArrivalsStore) -> Memory:
        value = store.arrivals(self._queue)
        try:
            return decode_memory(value) if value else Memory()
        except ValueError as error:
            self._note(f"the memory of arrivals in Redis is not used and written anew: it {error}")
            return Memory()

    def _note(self, problem: str) -> None:
        if problem != self._problem:
            log.warning("%s", problem, extra={"fields": {"queue": self._queue}})
        self._problem = problem

    # -- for people ---------------------------------------------------------------------------

    def facts(self) -> dict[str, Any]:
        """Return what is known and expected, for metrics and ``explain``."""
        coming = max(self.coming, key=lambda each: each.pods, default=None)
        known = self.memory.known
        facts: dict[str, Any] = {
            "known_steps": known,
            "known": f"{known * STEP_S / 86_400:.1f} of the last 28 days",
        }
        if self._capacity_per_s is None:
            facts |= {"expects": "not known, as no worker has published its speed yet"}
        elif coming is None:
            facts |= {"expects": "no jump within the start of a pod", "per_s": 0.0}
        else:
            facts |= {
                "expects": coming.text,
                "per_s": coming.per_s,
                "pods": coming.pods,
                "at": coming.start_s,
                "back_test": coming.test.text,
                "tested": coming.test.tested,
                "right": coming.test.right,
                "saved": coming.test.saved,
                "hours": coming.test.hours,
            }
        return facts


def foresight_of(policy: Policy, queue: str, store: ArrivalsStore | None) -> Foresight | None:
    """Return the foresight of a model; None where it is off."""
    return Foresight(policy, queue, store) if policy.foresight == "auto" else None
