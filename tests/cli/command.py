"""Runs the real command in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "QMTL_TEST_DATA") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "dumb"}


def qmtl(
    *arguments: str, home: Path, timeout_s: float = 30, **extra: str
) -> subprocess.CompletedProcess[str]:
    """Run `qmtl ARGUMENTS` in `home`, with nothing on stdin."""
    return subprocess.run(
        [sys.executable, "-c", "from qmtl.cli.app import main; main()", *arguments],
        cwd=home,
        env=environment(home) | extra,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start(*arguments: str, home: Path, **extra: str) -> subprocess.Popen[str]:
    """Start `qmtl ARGUMENTS`; whoever starts it ends it."""
    return subprocess.Popen(
        [sys.executable, "-c", "from qmtl.cli.app import main; main()", *arguments],
        cwd=home,
        env=environment(home) | extra,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
