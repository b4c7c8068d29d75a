"""Databases for lease tests, and time that passes in them when a test says so."""

import sqlite3
from dataclasses import dataclass

from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.history import SeriesKey
from tests.servers import run_apart

BARS = SeriesKey("ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m", 60)
OTHER = SeriesKey("ohlcv:binanceusdm:ETH/USDT%3AUSDT:1m", 60)


@dataclass(frozen=True)
class LeasePlace:
    """Where leases are kept."""

    dsn: str

    def open(self) -> LeaseStore:
        """A store with a connection of its own."""
        return LeaseStore(self.dsn)

    def execute(self, statement: str) -> None:
        if self.dsn.startswith("sqlite"):
            db = sqlite3.connect(self.dsn.removeprefix("sqlite:///"), timeout=30)
            with db:
                db.execute(statement)
            db.close()
            return

        async def run() -> None:
            import asyncpg

            session = await asyncpg.connect(self.dsn)
            try:
                await session.execute(statement)
            finally:
                await session.close()

        run_apart(run())

    def pass_time(self, ms: int) -> None:
        """Let `ms` pass: moving every lease back is the same as moving the database's clock on."""
        self.execute(f"UPDATE qmtl_leases SET lease_until_ms = lease_until_ms - {ms}")
