"""What all peers' servers share: decode with Pillow, ask the stand-in, name the model's process.

Nothing of imageserve is imported: the peers' environments lack what it needs.
"""

import hashlib
import os
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

TOP = 5
_SIZE = (224, 224)

#: The default filters of Image.resize() and of imageserve.
_RESAMPLING = {"own": Image.Resampling.BICUBIC, "identical": Image.Resampling.BILINEAR}

PORT = int(os.environ.get("PEER_PORT", "8000"))
WINDOW_MS = int(os.environ.get("PEER_WINDOW_MS", "10"))
WEB_PROCESSES = 2

BATCH_SIZE = int(os.environ.get("PEER_BATCH_SIZE", "32"))
_BATCH_MS = float(os.environ.get("PEER_BATCH_MS", "15"))
_IMAGE_MS = float(os.environ.get("PEER_IMAGE_MS", "0.5"))

DEADLINE_MS = int(os.environ.get("PEER_DEADLINE_MS", "0")) or None
"""The longest a request may take, where the benchmark sets it and the system has a limit for it."""


def pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Turn a picture into what the model takes, as users of these systems write it."""
    resampling = _RESAMPLING[os.environ.get("PEER_DECODE", "own")]
    return np.asarray(image.convert("RGB").resize(_SIZE, resampling))


def decoded(data: bytes) -> NDArray[np.uint8]:
    return pixels(Image.open(BytesIO(data)))


class Model:
    """The same stand-in as imageserve's: it takes the same time and gives the same answers.

    Its process is noted in a file, so that the benchmark can kill it.
    """

    def __init__(self, sleep: Callable[[float], object] = time.sleep) -> None:
        if pid_file := os.environ.get("PEER_PID_FILE"):
            Path(pid_file).write_text(str(os.getpid()))
        self._sleep = sleep

    def answers(self, images: NDArray[np.uint8]) -> list[dict[str, Any]]:
        """Return the JSON answer of each picture of a batch (n, 224, 224, 3)."""
        self._sleep((_BATCH_MS + len(images) * _IMAGE_MS) / 1000)
        return [_answer(hashlib.blake2b(image.tobytes()).hexdigest()[:12]) for image in images]


def _answer(label: str) -> dict[str, Any]:
    fillers = [(f"other-{i}", (1 - 0.9) / 2**i) for i in range(1, TOP)]
    predictions = [
        {"label": name, "probability": probability}
        for name, probability in [(label, 0.9), *fillers]
    ]
    return {"success": True, "predictions": predictions}
