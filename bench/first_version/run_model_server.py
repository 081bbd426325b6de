"""The model server of the first version: reads, runs, stores, removes, sleeps."""

import json
import time
from typing import Any

import numpy as np
import redis

from bench.first_version import helpers, settings
from imageserve.models.stand_in import StandIn

db: Any = redis.Redis(
    host=settings.REDIS_HOST, port=settings.REDIS_PORT, db=settings.REDIS_DB, protocol=2
)


def classify_process() -> None:
    model = StandIn()  # In place of ResNet50: the same declared cost as in the other system.
    while True:
        queue = db.lrange(settings.IMAGE_QUEUE, 0, settings.BATCH_SIZE - 1)
        image_ids: list[str] = []
        batch = None
        for entry in queue:
            q = json.loads(entry.decode("utf-8"))
            image = helpers.base64_decode_image(
                q["image"],
                settings.IMAGE_DTYPE,
                (1, settings.IMAGE_HEIGHT, settings.IMAGE_WIDTH, settings.IMAGE_CHANS),
            )
            batch = image if batch is None else np.vstack([batch, image])
            image_ids.append(q["id"])

        if batch is not None:
            print(f"* Batch size: {batch.shape}")
            results = model.predict(batch.astype(np.uint8), 5)
            for image_id, found in zip(image_ids, results, strict=True):
                output = [{"label": p.label, "probability": p.probability} for p in found]
                db.set(image_id, json.dumps(output))
            db.ltrim(settings.IMAGE_QUEUE, len(image_ids), -1)

        time.sleep(settings.SERVER_SLEEP)


if __name__ == "__main__":
    classify_process()
