"""The writers' queue of an embedded store: one process writes at a time, and tells if the last one died."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.history import StoreBusyError

WAIT_S = 30.0
_POLL_S = (0.001, 0.05)
_DIRTY = b"writing"


class WriterLock:
    """An exclusive lock on a file; the kernel frees it when its process ends, however that is."""

    def __init__(self, path: Path, clock: Clock) -> None:
        """Name the lock file; nothing is opened yet."""
        self._path = path
        self._clock = clock
        self._never = threading.Event()

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Hold the lock; the value tells whether its last holder died while it wrote.

        Blocks its thread. StoreBusyError when others keep it for 30 s.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._wait(descriptor)
            # A mark in the page cache outlives the process; a power cut is the first write's to sweep after.
            is_dirty = os.pread(descriptor, 1, 0) != b""
            os.pwrite(descriptor, _DIRTY, 0)
            yield is_dirty
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _wait(self, descriptor: int) -> None:
        # flock, not lockf: it belongs to this descriptor, so threads of one process queue like processes do.
        began_ms = self._clock.real_ms()
        pause_s, longest_s = _POLL_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                pass
            if self._clock.real_ms() - began_ms >= WAIT_S * 1000:
                raise StoreBusyError(f"{self._path.parent}: another process kept writing for {WAIT_S:.0f} s")
            self._never.wait(pause_s)
            pause_s = min(pause_s * 2, longest_s)
