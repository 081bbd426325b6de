"""BentoML: a service of two workers that decodes, and one that batches and runs the model."""

from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from bench.peers.servers.shared import (
    BATCH_SIZE,
    DEADLINE_MS,
    WEB_PROCESSES,
    WINDOW_MS,
    Model,
    pixels,
)

# In 1.4.39 the caller of a service renews its session after every 100 requests and breaks off those
# that are on their way: under load one in ten fails. So here it never does.
_NEVER = {"max_requests": 10**9, "max_age": 1e9}


# No deadline for max_latency_ms: a batcher that expects to miss it refuses a third at 60 % load.
_TRAFFIC = {"timeout": DEADLINE_MS / 1000 if DEADLINE_MS else 60.0}


@bentoml.service(workers=1, traffic=_TRAFFIC, runner_connection=_NEVER)
class Inference:
    """The model."""

    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(batchable=True, max_batch_size=BATCH_SIZE, max_latency_ms=WINDOW_MS)  # type: ignore[untyped-decorator]
    def classify(self, images: np.ndarray) -> list[dict[str, Any]]:
        return self.model.answers(images)


@bentoml.service(workers=WEB_PROCESSES, traffic=_TRAFFIC)
class Classify:
    """The form field ``image`` is the picture."""

    inference = bentoml.depends(Inference)

    @bentoml.api  # type: ignore[untyped-decorator]
    async def predict(self, image: Image) -> dict[str, Any]:
        array: NDArray[np.uint8] = pixels(image)
        answers: list[dict[str, Any]] = await self.inference.to_async.classify(array[np.newaxis])
        return answers[0]
