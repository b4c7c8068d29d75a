"""Snapshots of a running engine, and the finished days of its journal put away beside the loop."""

import asyncio

import structlog

from qmtl.core.interval import DAY_MS
from qmtl.engine.engine import Engine
from qmtl.engine.journal import JournalError, SqliteJournal
from qmtl.engine.ports import Clock

_log = structlog.get_logger("qmtl.trader")


class Checkpoint:
    """Stores snapshots of `engine` in `journal`, seals what they cover, keeps it for `retention_days`."""

    def __init__(self, journal: SqliteJournal, engine: Engine, clock: Clock, retention_days: int) -> None:
        self._journal = journal
        self._engine = engine
        self._clock = clock
        self._retention_days = retention_days
        self._sealing: asyncio.Task[None] | None = None

    def take(self) -> None:
        """Store a snapshot now; sealing, half a million records a day, goes on in a thread."""
        engine, now_ms = self._engine, self._clock.now_ms()
        self._journal.store_snapshot(engine.snapshot(), engine.state_hash(), now_ms)
        if self._sealing is None or self._sealing.done():
            self._sealing = asyncio.get_running_loop().create_task(self._seal(now_ms // DAY_MS))

    async def _seal(self, day: int) -> None:
        try:
            await asyncio.to_thread(self._journal.seal, day, day - self._retention_days)
        except JournalError as error:
            # Nothing is lost: the records stay where they are until the next attempt.
            _log.error("day not sealed", reason=str(error), action="check the disk of the journal")

    async def aclose(self) -> None:
        """Wait until a sealing that has begun is through."""
        if self._sealing is not None:
            await self._sealing
