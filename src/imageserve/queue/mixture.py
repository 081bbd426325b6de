"""Several models, or versions of one, at work on the same queue: who is told of it, and when."""

from collections.abc import Iterable

from imageserve.queue.snapshot import WorkerInfo

ROLLOUT_S = 600.0
"""How long two versions of a model may work side by side before anyone is told."""

MOST_HOSTS = 5
"""Hosts that are named of each kind."""

Kind = tuple[str, str]
"""The name and the version of a model."""


class Mixture:
    """Looks at the workers of one queue again and again, and warns once per change.

    Two versions for some minutes are a rollout. For longer they are one that got stuck, and answers
    depend on the worker that a picture meets. Two models are never meant.
    """

    def __init__(self, queue: str) -> None:
        self._queue = queue
        self._kinds: frozenset[Kind] = frozenset()
        self._since_s = 0.0
        self._told = False

    def warning(self, workers: Iterable[WorkerInfo], now_s: float) -> str:
        """Return what to log about the live workers; "" where there is nothing new to say."""
        hosts: dict[Kind, list[str]] = {}
        for worker in workers:
            hosts.setdefault((worker.model, worker.version), []).append(worker.host)
        kinds = frozenset(hosts)
        if kinds != self._kinds:
            self._kinds, self._since_s, self._told = kinds, now_s, False
        models = {model for model, _ in kinds}
        is_due = len(models) > 1 or (len(kinds) > 1 and now_s - self._since_s > ROLLOUT_S)
        if self._told or not is_due:
            return ""
        self._told = True
        at_work = "; ".join(_told(*kind, hosts[kind]) for kind in sorted(kinds))
        if len(models) > 1:
            return (
                f"several models work on the queue {self._queue}: {at_work}. "
                "Pictures that meet the wrong one are refused: give each a queue of its own"
            )
        return (
            f"several versions have been working on the queue {self._queue} for more than "
            f"{ROLLOUT_S / 60:.0f} minutes: {at_work}. End the rollout, or undo it"
        )


def _told(model: str, version: str, hosts: list[str]) -> str:
    named = [host[:80] for host in sorted(set(hosts))[:MOST_HOSTS]]
    more = len(set(hosts)) - len(named)
    on = ", ".join(named) + (f" and {more} more" if more else "")
    return f"{model[:80]}, version {version[:80] or 'unknown'}, on {on}"
