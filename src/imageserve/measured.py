"""What was measured, for `imageserve plan`: the costs of a picture, and speeds of models. Pure.

Each number says from where it is. Those of ``docs/performance.md`` are set anew when the
benchmark has run: the comment above each names the part and the row. Then ``python
tools/plan_docs.py`` writes the tables of that page's section "A growing system" from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TABLES: Final = "docs/performance.md, 2026-11-26, 2 cores of Intel Xeon (model 207)"
"""Where and when the tables were measured: the lines above them."""

REFERENCE: Final = (500, 375)
"""Width and height of the benchmark's picture, a JPEG of 58 KB, for models of 224 x 224."""

# -- web processes: parts (a) and (b) ------------------------------------------------------------

# (a), the line below the table: "CPU-ms per image of imageserve at 48 clients: web".
WEB_MS: Final = 2.70
"""Processor time of web processes for one picture of the benchmark, ms."""

# (b), row "imageserve", column "decode, ms".
DECODE_MS: Final = 1.48
"""The part of it that decodes, ms. The rest is HTTP, queue, log and metrics."""

# `python tools/plan_docs.py --decoding` measures these two.
DECODING: Final = "2026-11-26, 2 cores of Intel Xeon (family 6, model 207)"
"""Where the way in which decoding grows with the picture was measured."""
DECODE_BASE_MS: Final = 0.66
DECODE_NS_PER_PIXEL: Final[Mapping[int, float]] = {1: 4.81, 2: 3.92, 4: 3.50, 8: 3.02}
"""By what FAST_JPEG divides the sides by. Only their ratio to the benchmark's picture counts."""

JPEG_BYTES_PER_PIXEL: Final = 0.31
"""The benchmark's picture: 57,892 bytes. Photos have 0.1 to 0.5."""

LOOP_PIXELS: Final = 800_000
"""JPEGs of more pixels are decoded by the decoder processes beside the web process."""

# -- Redis: part (f) and three measurements of our own -------------------------------------------

# (f), column "ceiling, images/s": rows "pixels, 150 KB" and "JPEG, 57 KB".
REDIS_CEILINGS: Final[Mapping[int, float]] = {150_528: 5460.0, 57_892: 8151.0}
"""Bytes of a picture in the queue -> pictures a second that fill one core, nothing kept on disk."""

# (f): the ceiling of "pixels, 150 KB" divided by that of "pixels, append-only file".
LOGGED_TIMES: Final = 1.9
"""``appendonly yes``, as in the chart's Redis, takes so many times the processor time of Redis."""
REDIS_DETAILS: Final = "2026-11-26, Redis 7.0.15 with jemalloc, 2 cores of Intel Xeon (model 207)"
"""Where the numbers above and below were measured."""

JOB_BYTES: Final = 1024
"""Memory of a waiting job beside its pixels."""
ANSWERED_BYTES: Final = 1200
"""Memory of an answered job: its result, and its id, until both expire."""
WIRE_BYTES: Final = 1350
"""Sent to Redis for a picture beside its pixels; less comes back."""

# -- workers: part (c), and `imageserve models bench` --------------------------------------------


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast one worker is."""

    per_second: Mapping[int, float]
    """Pictures a second by batch size."""
    cores: int
    source: str


_WORKER = f"{TABLES}, part (c)"
_BY_SIZE = "`imageserve models bench` for the smaller batches"

# (c), column "worker"; the smaller batches by `imageserve models bench resnet50`.
SPEEDS: Final[Mapping[tuple[str, str], Speed]] = {
    ("mobilenet_v2", "keras"): Speed({32: 106.0}, 2, _WORKER),
    ("mobilenet_v2", "onnx"): Speed({32: 252.0}, 2, _WORKER),
    ("resnet50", "keras"): Speed({1: 17.0, 8: 25.5, 32: 27.6}, 2, f"{_WORKER}; {_BY_SIZE}"),
    ("resnet50", "onnx"): Speed({1: 36.1, 8: 40.8, 32: 40.9}, 2, f"{_WORKER}; {_BY_SIZE}"),
}
"""By model and runtime (Keras on TensorFlow), float32, one worker with 2 cores and no GPU."""


def decode_ms(pixels: int, scale: int) -> float:
    """Return the processor time to decode a JPEG, whose sides FAST_JPEG divides by ``scale``."""
    reference = REFERENCE[0] * REFERENCE[1]
    return DECODE_MS * _decoding(pixels, scale) / _decoding(reference, 1)


def _decoding(pixels: int, scale: int) -> float:
    return DECODE_BASE_MS + pixels * DECODE_NS_PER_PIXEL[scale] / 1e6


def redis_ms(payload_bytes: int) -> float:
    """Return the processor time of Redis for one picture with this many bytes of pixels.

    A straight line through the two that were measured.
    """
    (small, least), (large, most) = sorted(REDIS_CEILINGS.items())
    slope = (1000 / most - 1000 / least) / (large - small)
    return 1000 / least + slope * (payload_bytes - small)


def allocated_bytes(size: int) -> int:
    """Return what jemalloc takes for ``size`` bytes: up to a quarter more.

    Its sizes divide each power of two into four.
    """
    step = 1 << max(4, (size - 1).bit_length() - 3)
    return -(-size // step) * step
