"""One process owns an account: an exclusive lock on a file that says who holds it."""

import fcntl
import json
import os
import re
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from qmtl.engine.journal import JournalError

# fmt: off
NETWORK_FILE_SYSTEMS = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fuse.ceph", "fuse.curlftpfs",
    "fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs", "gfs2",
    "glusterfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "smb3", "smbfs",
})
# fmt: on
_MOUNTS = Path("/proc/mounts")
_ATTEMPTS = 50
_OCTAL = re.compile(r"\\([0-7]{3})")


class AccountLock:
    """Exclusive right to one account on this machine; the kernel frees it when its process ends.

    The file keeps pid, host and start of its holder for messages only: a stale text of a dead process
    locks nobody out. Implements `ports.Lease`.
    """

    def __init__(
        self, path: Path, *, account: str = "", started_ms: int = 0, worker_id: str | None = None
    ) -> None:
        """Name the lock file; nothing is opened yet. `started_ms` (UTC) and `worker_id` are for people."""
        self._worker_id = worker_id
        self.path = path
        self._account = account or path.stem
        self._started_ms = started_ms
        self._descriptor: int | None = None

    @property
    def is_held(self) -> bool:
        """Tell whether this object holds the account."""
        return self._descriptor is not None

    @property
    def holder(self) -> str:
        """Who holds the account now, "" when nobody does: `pid 4711 on host since 2026-11-21T12:00:00Z`."""
        if self._descriptor is not None:
            return _describe(self._info())
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return ""
        try:
            if _lock(descriptor, fcntl.LOCK_SH):
                return ""
            return _describe(_read(descriptor))
        finally:
            os.close(descriptor)

    @property
    def holder_pid(self) -> int | None:
        """The process that holds the account now, None when nobody does or it did not say."""
        match = re.match(r"pid (\d+)", self.holder)
        return int(match[1]) if match else None

    def acquire(self) -> None:
        """Take the account, or raise JournalError naming who holds it; taking it twice is taking it once.

        A lock file on a network file system is refused: such locks do not hold across machines.
        """
        if self._descriptor is not None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        require_local(self.path)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Somebody who only asks for the holder locks for an instant; give that instant a chance to pass.
        for _ in range(_ATTEMPTS):
            if _lock(descriptor, fcntl.LOCK_EX):
                break
            os.sched_yield()
        else:
            info = _read(descriptor)
            os.close(descriptor)
            name = f" ({info['holder']})" if "holder" in info else ""
            raise JournalError(
                f"account {self._account} is owned by {_describe(info)}{name}; lock file {self.path}"
            )
        self._descriptor = descriptor
        body = json.dumps(self._info()).encode()
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, body, 0)

    def release(self) -> None:
        """Give the account back; the file stays, else two processes could lock two files of one name."""
        if self._descriptor is None:
            return
        os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)
        self._descriptor = None

    def _info(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_ms": self._started_ms,
            "account": self._account,
            "holder": self._worker_id or f"{socket.gethostname()}:{os.getpid()}",
        }


def find_network_file_system(path: Path, mounts: Path = _MOUNTS) -> str | None:
    """Return the type of the network file system `path` is on, None when it is local or cannot be told.

    `mounts` has the format of /proc/mounts; systems without it (macOS) are taken as local.
    """
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return None
    place = path.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    place = place.resolve()
    best, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        mounted = Path(_OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[1]))
        # A later mount over the same place hides the earlier one.
        if place.is_relative_to(mounted) and len(mounted.parts) >= best:
            best, kind = len(mounted.parts), fields[2]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def require_local(path: Path, mounts: Path = _MOUNTS) -> None:
    """Raise JournalError naming the file system when `path` is on the network."""
    kind = find_network_file_system(path, mounts)
    if kind is not None:
        raise JournalError(
            f"{path}: is on a network file system ({kind}); journals and locks need a local disk"
        )


def _lock(descriptor: int, kind: int) -> bool:
    # flock and not lockf: a POSIX record lock is lost as soon as any descriptor of the file is closed.
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(descriptor: int) -> dict[str, Any]:
    try:
        body = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _describe(info: dict[str, Any]) -> str:
    pid = info.get("pid")
    if not isinstance(pid, int):
        return "another process that is just starting"
    started_ms = info.get("started_ms")
    since = ""
    if isinstance(started_ms, int) and started_ms > 0:
        since = f" since {datetime.fromtimestamp(started_ms / 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return f"pid {pid} on {info.get('host', 'this machine')}{since}"
