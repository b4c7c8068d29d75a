"""Where the contract suite finds stores: one place for each implementation of HistoryStore.

A place gives any number of stores over the same data. A new implementation adds itself to PLACES, and to
`open_at`, with which another process opens the store of a place.
"""

from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qmtl.core.ranges import Range
from qmtl.engine.clock import SystemRandom
from qmtl.engine.ports import Clock
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.io.questdb_tables import coverage_table
from qmtl.runtime.sdk.history import CoverageSpan, Environment, HistoryStore, SeriesKey

if TYPE_CHECKING:
    import polars as pl
    import pytest  # a child process that only opens a store starts faster without

    from tests.servers import QuestDBServer


class StorePlace(Protocol):
    """Somewhere to keep rows, empty at first; `address` is what another process needs to open it.

    Property tests run their number of cases divided by `cost`.
    """

    name: str
    address: str
    cost: int

    def open(self, clock: Clock | None = None) -> HistoryStore:
        """Return another store over the data of this place."""

    def renew(self) -> None:
        """Become another place, empty again, with another address."""

    async def faults(self, *, is_finished: bool) -> list[str]:
        """Return what is wrong inside; `is_finished` when nobody was killed since the last write."""


class EmbeddedPlace:
    """A folder of its own."""

    name = "embedded"
    cost = 4

    def __init__(self, request: "pytest.FixtureRequest") -> None:
        self._folder: Path = request.getfixturevalue("tmp_path")
        self._numbers = count()
        self.renew()

    def open(self, clock: Clock | None = None) -> HistoryStore:
        return EmbeddedStore(self.address, clock=clock)

    def renew(self) -> None:
        self.address = str(self._folder / f"store-{next(self._numbers)}")

    async def faults(self, *, is_finished: bool) -> list[str]:
        async with EmbeddedStore(self.address, read_only=True) as store:
            found = [f"{fault.path} {fault.reason}" for fault in await store.verify()]
            if is_finished:
                named = {str(store.path / segment.file) for _, segment in store._catalogue.list_segments()}
                files = {str(path) for path in store.path.glob("segments/**/*") if path.is_file()}
                found += sorted(f"{path} is left over" for path in files - named)
            return found


class QuestDBTables:
    """A HistoryStore over two tables: bars and trades of one place."""

    def __init__(self, address: str, clock: Clock | None = None) -> None:
        dsn, http, table = address.split()
        self.bars = QuestDBStore(dsn, table=table, http=http, clock=clock)
        self.trades = QuestDBStore(dsn, table=f"{table}_trades", http=http, clock=clock)

    @property
    def environment(self) -> Environment | None:
        return self.bars.environment

    @environment.setter
    def environment(self, value: Environment | None) -> None:
        self.bars.environment = self.trades.environment = value

    def of(self, key: SeriesKey) -> QuestDBStore:
        return self.trades if key.node_id.startswith("trades:") else self.bars

    async def read(self, key: SeriesKey, start: int, end: int) -> "pl.DataFrame":
        return await self.of(key).read(key, start, end)

    async def write(
        self,
        key: SeriesKey,
        frame: "pl.DataFrame",
        *,
        covered: Sequence[Range],
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        store = self.of(key)
        return await store.write(key, frame, covered=covered, provisional=provisional, fence=fence)

    async def mark_empty(self, key: SeriesKey, ranges: Sequence[Range], *, permanent: bool) -> None:
        await self.of(key).mark_empty(key, ranges, permanent=permanent)

    async def coverage(self, key: SeriesKey, *, now: int | None = None) -> list[CoverageSpan]:
        return await self.of(key).coverage(key, now=now)

    async def aclose(self) -> None:
        await self.bars.aclose()
        await self.trades.aclose()


class QuestDBPlace:
    """Tables of its own in the test server."""

    name = "questdb"
    cost = 20

    def __init__(self, request: "pytest.FixtureRequest") -> None:
        self._server: QuestDBServer = request.getfixturevalue("questdb_server")
        self._table = ""
        self.renew()

    def open(self, clock: Clock | None = None) -> HistoryStore:
        return QuestDBTables(self.address, clock)

    def renew(self) -> None:
        # QuestDB holds files of every table open: some thousand cases would use up what it may have.
        for old in (self._table, f"{self._table}_trades") if self._table else ():
            self._server.execute(f'DROP TABLE IF EXISTS "{old}"')
            self._server.execute(f'DROP TABLE IF EXISTS "{coverage_table(old)}"')
        self._table = f"t{SystemRandom().getrandbits(64):016x}"
        self.address = f"{self._server.dsn} {self._server.http} {self._table}"

    async def faults(self, *, is_finished: bool) -> list[str]:
        dsn, http, table = self.address.split()
        async with QuestDBStore(dsn, http=http) as store:
            query = "SELECT name FROM wal_tables() WHERE suspended"
            return [f"{name} is suspended" for (name,) in await store._link.fetch(query) if table in name]


PLACES: dict[str, Callable[["pytest.FixtureRequest"], StorePlace]] = {
    "embedded": EmbeddedPlace,
    "questdb": QuestDBPlace,
}


def open_at(name: str, address: str) -> HistoryStore:
    """Return a store of the place of that name, by its address."""
    if name == "embedded":
        return EmbeddedStore(address)
    if name == "questdb":
        return QuestDBTables(address)
    raise ValueError(f"no such place: {name}")
