"""Opening the durable order journal: one per path in this process, one process per path and account."""

from pathlib import Path

from qmtl.core.event import StateChanged
from qmtl.core.reason import TradingState
from qmtl.engine.backup import lock_path
from qmtl.engine.halt_marker import clear_marker, read_marker
from qmtl.engine.journal import IntentJournal, JournalError, SqliteJournal
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.owner import AccountLock
from qmtl.engine.ports import Clock, Random

LOCKS = Path("~/.qmtl/locks")


class OrderJournal(IntentJournal):
    """The SQLite journal of broker clients, its lock, and the locks of the accounts that use it."""

    def __init__(self, path: Path, clock: Clock, random: Random, worker_id: str | None) -> None:
        """Take the file and open it; JournalError naming who else holds it, or what is wrong with it."""
        self.path = path
        self._clock = clock
        self._worker_id = worker_id
        lock = AccountLock(lock_path(path), account=path.stem, started_ms=clock.now_ms(), worker_id=worker_id)
        lock.acquire()
        self._locks = {str(path): lock}
        try:
            journal = SqliteJournal(path, random.randbytes(8).hex(), opened_ms=clock.now_ms())
            super().__init__(journal)
        except JournalError:
            lock.release()
            raise

    def refresh(self) -> None:
        """See IntentJournal; a halt marker beside the file halts every account in it, for good."""
        super().refresh()
        marker = read_marker(self.path)
        if marker is not None:
            self.journal.append(
                StateChanged(self._clock.now_ms(), TradingState.HALTED, marker.who, marker.why)
            )
            super().refresh()
            clear_marker(self.path)

    def own(self, account: str) -> None:
        """Take `account`, or raise JournalError naming who holds it."""
        if account not in self._locks:
            lock = AccountLock(
                LOCKS.expanduser() / f"{account}.lock",
                account=account,
                started_ms=self._clock.now_ms(),
                worker_id=self._worker_id,
            )
            lock.acquire()
            self._locks[account] = lock

    def close(self) -> None:
        """Commit, and give file and accounts back."""
        _open.pop(self.path, None)
        try:
            super().close()
        finally:
            for lock in self._locks.values():
                lock.release()


_open: dict[Path, OrderJournal] = {}


def open_order_journal(
    path: Path, clock: Clock, random: Random, *, worker_id: str | None = None
) -> OrderJournal:
    """Return the journal at `path`, the same one for everybody in this process; JournalError as above."""
    place = path.absolute()
    journal = _open.get(place)
    if journal is None:
        journal = _open[place] = OrderJournal(place, clock, random, worker_id)
    return journal


def memory_journal(random: Random) -> IntentJournal:
    """Return a journal that lives as long as the process."""
    return IntentJournal(MemoryJournal(random.randbytes(8).hex()))
