"""A process that runs the kernel keeps memory it freed: Linux is not asked for the same pages again."""

import gc
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from qmtl.engine.heap import rare_collections

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
    told = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=plain, check=True)
    held, left = done.stdout.split()
    return int(held), int(left)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_a_market_of_the_kernel_makes_the_process_keep_what_it_frees() -> None:
    held, left = freed("market")
    assert held > BLOCKS_KB * 0.95
    assert left > BLOCKS_KB * 0.95
    held, left = freed("nothing")
    assert held > BLOCKS_KB * 0.95
    assert left < BLOCKS_KB * 0.5


def test_of_runs_side_by_side_the_last_brings_the_collector_back() -> None:
    before = gc.get_threshold()
    one, other = rare_collections(), rare_collections()
    with one:
        assert gc.get_threshold()[0] > before[0]
        other.__enter__()
    assert gc.get_threshold()[0] > before[0]
    other.__exit__(None, None, None)
    assert gc.get_threshold() == before
