"""A process that runs the kernel keeps memory it freed: Linux is not asked for the same pages again."""

import subprocess
import sys
from pathlib import Path

import pytest

from qmtl.engine.heap import keep_freed_memory

ROOT = Path(__file__).resolve().parents[2]
FREEING = """
import sys
import numpy as np
from bench.peers.serving import memory_kb
from qmtl.engine.kernel import KernelMarket
from tests.engine.two_tiers import walk
from tests.trader.desk import BTC

if sys.argv[1] == "market":
    KernelMarket(walk(1, 100), BTC)
before = memory_kb("VmRSS")
blocks = [np.ones(3 << 17) for _ in range(16)]
held = memory_kb("VmRSS")
del blocks
print(held - before, memory_kb("VmRSS") - before)
"""
BLOCKS_KB = 16 * 3 * 1024


def freed(what: str) -> tuple[int, int]:
    """Return how many KiB more a process that made `what` had with 48 MiB of arrays, and without again."""
    command = [sys.executable, "-c", FREEING, what]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    held, left = done.stdout.split()
    return int(held), int(left)


@pytest.mark.skipif(not keep_freed_memory(), reason="only glibc can be told")
def test_a_market_of_the_kernel_makes_the_process_keep_what_it_frees() -> None:
    held, left = freed("market")
    assert held > BLOCKS_KB * 0.95
    assert left > BLOCKS_KB * 0.95
    held, left = freed("nothing")
    assert held > BLOCKS_KB * 0.95
    assert left < BLOCKS_KB * 0.5
