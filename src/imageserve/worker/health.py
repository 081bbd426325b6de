"""The worker's HTTP port, for probes: ``/startupz``, ``/healthz``, ``/readyz``, ``/metrics``."""

from collections.abc import Callable

from imageserve import metrics
from imageserve.probes import ProbeServer, state_answer


class HealthServer(ProbeServer):
    """Serves the addresses from a thread; ``warm``, ``healthy`` and ``ready`` are asked each time.

    ``warm`` is whether the model is loaded: a startup probe that waited for Redis, too, would have
    a model loaded again and again during an outage.
    """

    def __init__(
        self,
        port: int,
        *,
        warm: Callable[[], bool],
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
        reason: Callable[[], str] = lambda: "not ready",
    ) -> None:
        """Bind the port (0: any free one); ``reason`` says why it is not ready.

        Raises SettingsError where it is taken.
        """
        super().__init__(
            port,
            {
                "/startupz": lambda: state_answer(warm(), b"warm\n", b"loading the model\n"),
                "/healthz": lambda: state_answer(healthy(), b"ok\n", b"the model hangs\n"),
                "/readyz": lambda: state_answer(ready(), b"ready\n", f"{reason()}\n".encode()),
                "/metrics": lambda: (200, metrics.CONTENT_TYPE, metrics.exposition()),
            },
        )
