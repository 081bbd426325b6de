"""The table in docs/model-folders.md: which settings give which library's pixels, and how nearly.

Tests measure the rows, each beside the library it names. ``UPDATE_DOCS=1`` writes them anew.
"""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops
from tests.pictures import encoded, photo

from imageserve.decoding import DecodingPolicy, decode
from imageserve.preparation import Preparation

DOCUMENT = Path(__file__).parents[1] / "docs" / "model-folders.md"
SIDES = [(500, 375), (375, 500), (640, 427), (1280, 720), (333, 333), (911, 301), (257, 601)]
"""Widths and heights of the pictures that are compared."""
_ROW = re.compile(r" ([\d.]+) % \| ([\d.]+) \|")


def pictures(sides: list[tuple[int, int]]) -> Iterator[Image.Image]:
    """Draw pictures with smooth colours and fine grain, as photos have."""
    for seed, (width, height) in enumerate(sides):
        grain = Image.frombytes("L", (64, 64), np.random.default_rng(seed).bytes(64 * 64))
        grain = grain.point(lambda value: value // 8).resize((width, height), Image.Resampling.BOX)
        yield ImageChops.add(photo(width, height, seed), Image.merge("RGB", [grain] * 3))


def check_row(
    library: str,
    settings: str,
    preparation: Preparation,
    expected: Callable[[Image.Image], Any],
    *,
    sides: list[tuple[int, int]] = SIDES,
    fmt: str = "PNG",
    policy: DecodingPolicy | None = None,
) -> None:
    """Compare pixels, and what was found with what the table says.

    ``expected`` gives a picture's pixels by the library, as whole numbers or fractions; these are
    rounded to count the equal ones.
    """
    equal, farthest = [], 0.0
    for image in pictures(sides):
        raw = decode(encoded(image, fmt), preparation, policy or DecodingPolicy())
        found = np.frombuffer(raw, np.uint8).reshape(preparation.shape).astype(float)
        right = np.asarray(expected(image), float).reshape(found.shape)
        equal.append((found == np.rint(right)).mean())
        farthest = max(farthest, float(np.abs(found - right).max()))
    share = 100 * float(np.mean(equal))
    begin = f"| {library} | {settings} |"
    if os.environ.get("UPDATE_DOCS"):
        _write(begin, f"{begin} {_short(share, 2)} % | {_short(farthest, 1)} |")
    (line,) = [each for each in DOCUMENT.read_text().splitlines() if each.startswith(begin)]
    told = _ROW.fullmatch(line.removeprefix(begin))
    assert told is not None, line
    # Processors differ in the last bit of a fraction.
    assert abs(float(told[1]) - share) < 0.2, (line, share)
    assert abs(float(told[2]) - farthest) < 0.1, (line, farthest)


def _short(value: float, digits: int) -> str:
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def _write(begin: str, row: str) -> None:
    lines = DOCUMENT.read_text().splitlines()
    rows = [n for n, each in enumerate(lines) if each.startswith(begin)]
    end = lines.index("<!-- pixels: end -->")
    lines[slice(rows[0], rows[0] + 1) if rows else slice(end - 1, end - 1)] = [row]
    DOCUMENT.write_text("\n".join(lines) + "\n")
