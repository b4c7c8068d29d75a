"""Processes that a test did not start itself: those of a server."""

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

_DEADLINE_S = 60.0


def list_children(pid: int) -> list[int]:
    """Return the processes that `pid` started and that run, none where the system does not tell."""
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in listed.read_text().split()] if listed.exists() else []


def end_now(pids: Iterable[int]) -> None:
    """Kill processes and return when they hold nothing any more; TimeoutError after a minute."""
    left, deadline = list(pids), time.monotonic() + _DEADLINE_S
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while left := [pid for pid in left if _is_running(pid)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} do not end")
        time.sleep(0.01)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    # A zombie has closed its files and waits for nobody but its parent.
    return state not in {"Z", "X"}
