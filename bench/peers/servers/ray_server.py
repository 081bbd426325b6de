"""Ray Serve: two replicas that read the request and decode, one that batches and runs the model."""

import signal
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from bench.peers.servers.shared import (
    BATCH_SIZE,
    DEADLINE_MS,
    PORT,
    WEB_PROCESSES,
    WINDOW_MS,
    Model,
    decoded,
)

# By default a replica takes 5 requests at once: then no batch is larger than that.
_MANY = 1_000


@serve.deployment(max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0})
class Inference:
    """The model."""

    def __init__(self) -> None:
        self.model = Model()

    @serve.batch(max_batch_size=BATCH_SIZE, batch_wait_timeout_s=WINDOW_MS / 1000)  # type: ignore[untyped-decorator]
    async def __call__(self, images: list[NDArray[Any]]) -> list[dict[str, Any]]:
        return self.model.answers(np.stack(images))


@serve.deployment(
    num_replicas=WEB_PROCESSES, max_ongoing_requests=_MANY, ray_actor_options={"num_cpus": 0}
)
class Classify:
    """The request body is the picture."""

    def __init__(self, inference: DeploymentHandle) -> None:
        self.inference = inference

    async def __call__(self, request: Request) -> dict[str, Any]:
        answer: dict[str, Any] = await self.inference.remote(decoded(await request.body()))
        return answer


if __name__ == "__main__":
    ray.init(include_dashboard=False, num_cpus=WEB_PROCESSES, object_store_memory=2**28)
    serve.start(
        http_options={
            "host": "127.0.0.1",
            "port": PORT,
            "request_timeout_s": DEADLINE_MS / 1000 if DEADLINE_MS else None,
        }
    )
    app = Classify.bind(Inference.bind())  # type: ignore[attr-defined]
    serve.run(app, route_prefix="/predict", logging_config={"enable_access_log": False})
    signal.pause()
