"""Memory of a run: what one gives back is kept for the next, and garbage is looked for seldom."""

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# mallopt's parameters in glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT = 64 << 20
"""Free bytes at the top of the heap beyond which they go back."""
_LARGEST = 32 << 20
"""Blocks up to so many bytes come from the heap at all; glibc allows no more."""
_COLLECT_EVERY = 50_000
"""New containers between two collections of cyclic garbage during a run; Python's own number is 700."""


@cache
def keep_freed_memory() -> bool:
    """Have this process keep up to 64 MiB freed at the top of a heap; tell whether it can (glibc can).

    Blocks of up to 32 MiB come from the heap then, and stay with it while another above them is in use. A run
    of the kernel takes a millisecond, and asking Linux for its arrays' pages again took a third of it.
    """
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    return mallopt is not None and all(
        [mallopt(_TRIM_THRESHOLD, _KEPT) == 1, mallopt(_MMAP_THRESHOLD, _LARGEST) == 1]
    )


class _Rarely:
    """How many runs ask for seldom collections now, and what held before the first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.runs = 0
        self.before = gc.get_threshold()


_RARELY = _Rarely()


@contextmanager
def rare_collections() -> Iterator[None]:
    """Collect seldom: what a run keeps is no garbage, and looking through it again and again costs 7 %.

    Of runs side by side the last to end brings back what was before the first.
    """
    with _RARELY.lock:
        if not _RARELY.runs:
            _RARELY.before = gc.get_threshold()
            if 0 < _RARELY.before[0] < _COLLECT_EVERY:
                gc.set_threshold(_COLLECT_EVERY, *_RARELY.before[1:])
        _RARELY.runs += 1
    try:
        yield
    finally:
        with _RARELY.lock:
            _RARELY.runs -= 1
            if not _RARELY.runs:
                gc.set_threshold(*_RARELY.before)
