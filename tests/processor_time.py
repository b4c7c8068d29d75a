"""What a fresh interpreter costs, in processor time: neighbours on a busy machine do not count."""

import os
import subprocess
import sys
from collections.abc import Mapping

STANDARD = "import asyncio, dataclasses, decimal, json, logging, sqlite3, urllib.request"
"""What many a program loads of the standard library; the measure of "quick"."""
_ROUNDS = 3


def processor_s(code: str, env: Mapping[str, str] | None = None) -> float:
    """The least that running `code` took in a few rounds, its imports included."""
    took = []
    for _ in range(_ROUNDS):
        child = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        assert child.returncode == 0
        took.append(used.ru_utime + used.ru_stime)
    return min(took)
