"""The budget of GPUs as the threads of all models share it."""

import threading
from collections.abc import Callable, Collection, Mapping

from imageserve.autoscaler.budget import Budget, Claim, Share
from imageserve.autoscaler.scaling_file import Scaling


class SharedBudget:
    """Gives each model its share, and wakes the others that have to act because of it."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._wake: Mapping[str, Callable[[], None]] = {}

    def wake_with(self, wake: Mapping[str, Callable[[], None]]) -> None:
        """Set how to have a model sized at once, by its name."""
        self._wake = wake

    def claim(self, name: str, claim: Claim, now_s: float) -> Share:
        """Return what this model may set now; wake those that are to give pods away."""
        with self._lock:
            share, givers = self._budget.claim(name, claim, now_s)
        self._wake_all(givers)
        return share

    def unknown(self, name: str, *, is_gone: bool) -> None:
        """Note that a model's Deployment cannot be read, or that it does not exist."""
        with self._lock:
            self._budget.unknown(name, is_gone=is_gone)

    def scaled(self, name: str, pods: int) -> None:
        """Note that a model's pods were set; wake those that have waited for room."""
        with self._lock:
            takers = self._budget.scaled(name, pods)
        self._wake_all(takers)

    def _wake_all(self, names: Collection[str]) -> None:
        for name in names:
            if name in self._wake:
                self._wake[name]()


def shared_budget(scaling: Scaling) -> SharedBudget | None:
    """Return the budget of the models that take GPUs; None where there is none."""
    if scaling.gpu_budget is None:
        return None
    return SharedBudget(budget_of(scaling))


def budget_of(scaling: Scaling) -> Budget:
    """Return the budget before any model has claimed."""
    # A Deployment that was never read is taken to have its fewest pods.
    return Budget(
        scaling.gpu_budget or 0,
        {
            model.name: Claim(model.gpus, has=least, wants=least, least=least, fixed=least)
            for model in scaling.models.values()
            if model.gpus
            for least in (model.policy.min_replicas,)
        },
    )
