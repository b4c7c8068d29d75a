import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qmtl.engine.journal import JournalError
from qmtl.engine.owner import AccountLock, find_network_file_system, require_local

HOLD = """
import sys
from pathlib import Path
from qmtl.engine.owner import AccountLock
AccountLock(Path(sys.argv[1]), account="desk", started_ms=1_795_262_400_000).acquire()
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_naming_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "locks" / "desk.lock"
    with other_process(path) as process:
        lock = AccountLock(path, account="desk")
        with pytest.raises(JournalError) as raised:
            lock.acquire()
        assert f"account desk is owned by pid {process.pid} on " in str(raised.value)
        assert "since 2026-11-21T12:00:00Z" in str(raised.value)
        assert lock.holder_pid == process.pid
        assert not lock.is_held


def test_a_killed_holder_frees_the_account(tmp_path: Path) -> None:
    path = tmp_path / "desk.lock"
    with other_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        lock = AccountLock(path)
        assert lock.holder == ""
        lock.acquire()
        assert lock.holder_pid == os.getpid()
        assert json.loads(path.read_text("utf-8"))["pid"] == os.getpid()
        lock.release()


def test_two_locks_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    first, second = AccountLock(tmp_path / "a.lock"), AccountLock(tmp_path / "a.lock")
    first.acquire()
    first.acquire()
    with pytest.raises(JournalError, match=f"pid {os.getpid()}"):
        second.acquire()
    first.release()
    first.release()
    assert second.holder == ""
    second.acquire()
    assert second.is_held
    second.release()


def test_asking_for_the_holder_locks_nobody_out(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    assert AccountLock(path).holder == ""
    assert not path.exists()
    for _ in range(50):
        lock = AccountLock(path)
        lock.acquire()
        assert AccountLock(path).holder_pid == os.getpid()
        lock.release()
        assert AccountLock(path).holder == ""


def test_the_lock_file_is_private_and_survives_junk(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    path.write_bytes(b"\xff not json")
    lock = AccountLock(path)
    lock.acquire()
    assert lock.holder_pid == os.getpid()
    lock.release()
    fresh = AccountLock(tmp_path / "b.lock")
    fresh.acquire()
    assert (tmp_path / "b.lock").stat().st_mode & 0o077 == 0
    fresh.release()


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("server:/export {place} nfs4 rw 0 0", "nfs4"),
        ("//nas/share {place} cifs rw 0 0", "cifs"),
        ("host: {place} fuse.sshfs rw 0 0", "fuse.sshfs"),
        ("/dev/sda1 {place} ext4 rw 0 0", None),
        ("tmpfs {place} tmpfs rw 0 0", None),
    ],
)
def test_network_file_systems_are_known(tmp_path: Path, line: str, kind: str | None) -> None:
    place = tmp_path / "with space"
    place.mkdir()
    mounts = tmp_path / "mounts"
    mounted = str(place).replace(" ", "\\040")
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\n{line.format(place=mounted)}\n", "utf-8")
    path = place / "deeper" / "journal.db"
    assert find_network_file_system(path, mounts) == kind
    assert find_network_file_system(tmp_path / "elsewhere", mounts) is None
    if kind:
        with pytest.raises(JournalError, match=f"network file system \\({kind}\\)"):
            require_local(path, mounts)
    else:
        require_local(path, mounts)


def test_a_system_without_mounts_counts_as_local(tmp_path: Path) -> None:
    assert find_network_file_system(tmp_path, tmp_path / "none") is None
