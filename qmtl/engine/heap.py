"""The C library's heap: what one run gives back is kept for the next.

A run of the kernel takes a millisecond, and asking Linux for its arrays' pages again took a third of it.
"""

import ctypes
import sys
from functools import cache

# mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
"""Free bytes at the top of the heap beyond which they go back."""
_LARGEST = 32 << 20
"""Blocks up to so many bytes come from the heap at all; glibc allows no more."""


@cache
def keep_freed_memory() -> bool:
    """Have this process keep up to 64 MiB that it freed; tell whether its C library can (glibc can)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(
        [mallopt(_TRIM_THRESHOLD, _KEPT) == 1, mallopt(_MMAP_THRESHOLD, _LARGEST) == 1]
    )
