"""Unpacks the run-length encoded pixels of a BMP."""

from imageserve.decoding.header import truncated

_RUNS = [bytes([value]) * 255 for value in range(256)]
_PAIRS = [bytes([value >> 4, value & 15]) for value in range(256)]
_PAIR_RUNS = [pair * 128 for pair in _PAIRS]
"""The longest run of each byte: at eight bits a pixel, and at four."""
_END_OF_LINE, _END_OF_PICTURE, _MOVE = range(3)


def unpacked_rows(runs: bytes, width: int, height: int, has_pairs: bool) -> bytearray:
    """Return the rows, one byte for each pixel, each row padded to a multiple of four.

    What no run fills is colour 0. ``has_pairs``: a byte of ``runs`` holds two pixels.

    Raises TruncatedImage where the runs end before the last row.
    """
    canvas = _Canvas(width, height, has_pairs)
    patterns = _PAIR_RUNS if has_pairs else _RUNS
    at, last = 0, len(runs) - 1
    while canvas.row < len(canvas.rows):
        if at >= last:
            if canvas.is_full:
                break
            raise truncated("bmp")
        count, value = runs[at], runs[at + 1]
        at += 2
        if count:
            canvas.put(patterns[value], count)
        elif value == _END_OF_PICTURE:
            break
        else:
            at += canvas.follow(value, runs, at)
    return canvas.rows


class _Canvas:
    """The rows, and the place of the next pixel."""

    def __init__(self, width: int, height: int, has_pairs: bool) -> None:
        self.stride = width + 3 & ~3
        self.rows = bytearray(self.stride * height)
        self.row = self.x = 0
        self._width = width
        self._has_pairs = has_pairs

    @property
    def is_full(self) -> bool:
        return self.row + self.stride == len(self.rows) and self.x >= self._width

    def put(self, pixels: bytes, count: int) -> None:
        """Put the first pixels; what does not fit into the row is left out."""
        at, room = self.row + self.x, min(count, self._width - self.x)
        self.rows[at : at + room] = pixels[:room]
        self.x += room

    def follow(self, order: int, runs: bytes, at: int) -> int:
        """Do what stands behind a zero; return how many more bytes it takes."""
        if order == _END_OF_LINE:
            self.x, self.row = 0, self.row + self.stride
            return 0
        size = (order + 1) // 2 if self._has_pairs else order
        content = runs[at : at + size] if order != _MOVE else runs[at : at + 2]
        if len(content) < (size if order != _MOVE else 2):
            raise truncated("bmp")
        if order == _MOVE:
            self.x = min(self._width, self.x + content[0])
            self.row += self.stride * content[1]
            return 2
        pixels = b"".join(map(_PAIRS.__getitem__, content)) if self._has_pairs else content
        self.put(pixels, order)
        return size + (size & 1)
