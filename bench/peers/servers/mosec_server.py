"""mosec: a stage of two processes that decodes, a stage of one that batches and runs the model."""

import sys
from typing import Any

import numpy as np
from mosec import Server, ValidationError, Worker
from numpy.typing import NDArray

from bench.peers.servers.shared import (
    BATCH_SIZE,
    DEADLINE_MS,
    PORT,
    WEB_PROCESSES,
    WINDOW_MS,
    Model,
    decoded,
)


class Preprocess(Worker):  # type: ignore[misc]
    """The request body is the picture."""

    def deserialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> NDArray[np.uint8]:
        try:
            return decoded(data)
        except Exception as error:
            raise ValidationError(f"cannot decode the picture: {error}") from error


class Inference(Worker):  # type: ignore[misc]
    """The model."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def forward(self, images: list[NDArray[np.uint8]]) -> list[dict[str, Any]]:
        return self.model.answers(np.stack(images))


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", str(PORT), "--log-level", "warning"]
    if DEADLINE_MS:
        sys.argv += ["--timeout", str(DEADLINE_MS)]
    server = Server()
    # A worker may take its 3 s whatever the requests' time-out: a slow batch is no dead worker.
    server.append_worker(Preprocess, num=WEB_PROCESSES, route="/predict", timeout=3)
    server.append_worker(
        Inference,
        num=1,
        max_batch_size=BATCH_SIZE,
        max_wait_time=WINDOW_MS,
        route="/predict",
        timeout=3,
    )
    server.run()
