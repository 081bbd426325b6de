"""What the C library does with memory that was freed."""

import ctypes
import os
from contextlib import suppress

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 * 2**20
LARGEST_BYTES = 32 * 2**20
"""What glibc takes at most for ``M_MMAP_THRESHOLD``; see mallopt(3)."""


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB an arena that were freed, instead of giving them back at once.

    The pixels of a batch are 5 MB and more: given back and taken again, they cost a thousand page
    faults per batch, three quarters of the time that fetching them from Redis takes. Does nothing
    with another C library, or where MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ is set.
    """
    if not os.environ.keys().isdisjoint(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
