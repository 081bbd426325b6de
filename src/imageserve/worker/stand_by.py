"""Whether a worker leaves the jobs to workers of release 0.1.0 that serve the same model.

Those know squeezed pictures only, and so do the web processes of their release, which would send a
worker that needs others what it must refuse, again and again. While one of them lives, all pictures
are squeezed, and such a worker takes no job: an upgrade ends with the last old worker.
"""

import logging
import threading

from imageserve.preparation import Preparation, plain
from imageserve.queue.consumer import Consumer
from imageserve.queue.snapshot import WorkerInfo

log = logging.getLogger(__name__)

MOST_HOSTS = 3
"""Hosts that are named."""


class StandBy:
    """Looks at the other workers of a queue. ``problem`` may be read by any thread."""

    def __init__(self, consumer: Consumer, model: str) -> None:
        """``model``: the name of the model that this worker serves."""
        self.problem = ""
        """Why this worker takes no jobs; "" where it does."""
        self._consumer = consumer
        self._model = model
        self._looked_for: Preparation | None = None
        self._looking = threading.Lock()

    def must(self, preparation: Preparation) -> bool:
        """Tell whether a worker that needs this takes no job now, as the last look has shown.

        Raises QueueError where none was taken yet.
        """
        if self._looked_for != preparation:
            self.look(preparation)
        return bool(self.problem)

    def look(self, preparation: Preparation) -> None:
        """Look again where it matters. Raises QueueError."""
        with self._looking:
            needs_more = preparation != plain(preparation)
            old = self._consumer.others_of_0_1_0(self._model) if needs_more else []
            problem = _problem(old) if old else ""
            if problem and not self.problem:
                log.warning("%s", problem)
            elif self.problem and not problem:
                log.info("takes jobs now: %s is served by release 0.1.0 no more", self._model)
            self.problem, self._looked_for = problem, preparation


def _problem(old: list[WorkerInfo]) -> str:
    hosts = sorted({worker.host[:80] for worker in old})
    named = ", ".join(hosts[:MOST_HOSTS]) + (" and others" if len(hosts) > MOST_HOSTS else "")
    return (
        f"stands by, because workers of release 0.1.0 serve {old[0].model[:80]} on {named}, and "
        "they know nothing of the way in which this model's pictures are prepared: it takes jobs "
        "when they have ended"
    )
