"""LitServe: two API servers, one worker that decodes what it batches and runs the model."""

from typing import Any

import litserve
import numpy as np
from fastapi import Request
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


class Classify(litserve.LitAPI):  # type: ignore[misc]
    """The form field ``image`` is the picture."""

    def setup(self, device: str) -> None:
        del device
        self.model = Model()

    def decode_request(self, request: Request) -> NDArray[np.uint8]:
        return decoded(request["image"].file.read())

    def predict(self, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
        return self.model.answers(images)

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH_SIZE, batch_timeout=WINDOW_MS / 1000)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=1,
        restart_workers=True,
        timeout=DEADLINE_MS / 1000 if DEADLINE_MS else 30,
    )
    server.run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=WEB_PROCESSES,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
