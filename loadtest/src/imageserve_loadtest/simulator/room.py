"""The GPUs of a simulated cluster, for which the pods of several models wait. Pure."""

from collections.abc import Callable

Place = Callable[[float], None]
"""Called with the second at which a pod has found a node."""


class Room:
    """GPUs that pods take in the order in which they came; one that fits passes one that does not.

    That is what the scheduler of Kubernetes does with pods of the same priority.
    """

    def __init__(self, gpus: float) -> None:
        self._free = gpus
        self._waiting: list[tuple[int, Place]] = []

    def ask(self, now_s: float, gpus: int, place: Place) -> None:
        """Place a pod as soon as there are GPUs for it, which may be now."""
        self._waiting.append((gpus, place))
        self._place(now_s)

    def withdraw(self, gpus: int, place: Place) -> None:
        """Forget a pod that waits."""
        self._waiting.remove((gpus, place))

    def give_back(self, now_s: float, gpus: int) -> None:
        """Free the GPUs of a pod that is gone."""
        self._free += gpus
        self._place(now_s)

    def _place(self, now_s: float) -> None:
        for each in list(self._waiting):
            gpus, place = each
            if gpus <= self._free:
                self._waiting.remove(each)
                self._free -= gpus
                place(now_s)
