"""Runs the real command in a process of its own."""

import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qmtl.cli.app import run
from qmtl.engine.clock import SystemClock
from qmtl.engine.control import ControlError
from qmtl.engine.control_client import ControlClient
from tests.conftest import ROOT


def environment(home: Path) -> dict[str, str]:
    """The environment of a user who has set nothing."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "QMTL_TEST_DATA") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONPATH": str(ROOT), "COLUMNS": "120", "TERM": "dumb"}


def qmtl(
    *arguments: str, home: Path, timeout_s: float = 90, **extra: str
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


async def read_status(home: Path) -> dict[str, Any]:
    """What the one trader of this home says, empty while none answers."""
    sockets = list((home / ".qmtl" / "run").glob("*.sock"))
    if not sockets:
        return {}
    try:
        async with ControlClient(sockets[0]) as client:
            return await client.status()
    except ControlError:
        return {}


async def wait_for(home: Path, found: Callable[[dict[str, Any]], Any], limit_s: float = 90) -> dict[str, Any]:
    """Ask the trader until `found` says yes; the test fails with the last status when it does not."""
    deadline = time.monotonic() + limit_s
    status: dict[str, Any] = {}
    pause: Callable[[float], Awaitable[None]] = SystemClock().sleep
    while time.monotonic() < deadline:
        status = await read_status(home)
        if status and found(status):
            return status
        await pause(0.1)
    pytest.fail(f"not seen within {limit_s} s: {status}")


class Answer(NamedTuple):
    """What a command printed and its exit code."""

    code: int
    text: str
    error: str


def run_command(*arguments: str) -> Answer:
    """Run `qmtl ARGUMENTS` in this process and working directory; quick, where no process matters."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = run(list(arguments))
    return Answer(code, out.getvalue().strip(), error.getvalue().strip())
