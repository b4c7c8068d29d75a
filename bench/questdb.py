"""QuestDB as a store: `python -m bench.questdb [ROWS]` (seamless.md §16, item 28), in wall-clock time.

Aim: rows by ILP at least 20 times as fast as one insert after another over pgwire; reads in at most twice the
time of the same query by asyncpg alone; coverage of a series of 10 M rows in at most twice that of 10,000.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import asyncpg
import polars as pl

from bench.history_stores import START, candles
from bench.measure import Measured, write
from bench.questdb_server import questdb_at_hand
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.sdk.history import SeriesKey
from tests.servers import QuestDBServer

ROUNDS = 5
BULK, INSERTS, DAY_ROWS, READ_ROWS = 100_000, 500, 1_440, 100_000
MINUTES = SeriesKey("ohlcv:binance:BTC/USDT:1m", 60)
SECONDS = SeriesKey("ohlcv:binance:BTC/USDT:1s", 1)
WINDOW = 50_000
"""Cells of one write of a long backfill."""
INSERT = 'INSERT INTO "{table}" VALUES ($1, $2, $3, $4, $5, $6, $7, $8)'
SELECT = (
    'SELECT cast(ts AS long) / 1000000 AS ts, open, high, low, close, volume FROM "{table}" '
    "WHERE node_id = $1 AND interval_s = $2 AND ts >= $3 AND ts < $4 ORDER BY ts"
)
FILL = (
    "INSERT INTO \"{table}\" SELECT cast(({start} + x) * 1000000 AS timestamp), '{node}', 1, "
    "rnd_double(), rnd_double(), rnd_double(), rnd_double(), rnd_double() FROM long_sequence({rows})"
)


async def seconds(work: Callable[[], Awaitable[object]]) -> float:
    """Return the wall-clock seconds of one awaited call."""
    started = time.perf_counter()
    await work()
    return time.perf_counter() - started


async def compare(
    name: str,
    candidate: Callable[[], Awaitable[object]],
    anchor: Callable[[], Awaitable[object]],
    *,
    counts: tuple[int, int],
    anchor_name: str,
    unit: str = "rows",
) -> Measured:
    """Let both take turns after a warm-up of each; `counts` are the units of one call of either."""
    await candidate()
    await anchor()
    ours, theirs = [], []
    for _ in range(ROUNDS):
        ours.append(counts[0] / await seconds(candidate))
        theirs.append(counts[1] / await seconds(anchor))
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Measured(
        name,
        unit,
        anchor_name,
        statistics.median(ours),
        statistics.median(theirs),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        ROUNDS,
        time="wall clock",
    )


def moment(second: int) -> datetime:
    """Return a time as pgwire takes it."""
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None)


async def measure_writes(store: QuestDBStore, session: asyncpg.Connection) -> Measured:
    """Compare rows until they can be read: a write of the store, and inserts one after another."""
    frame = candles(BULK)
    covered = [(START, START + 60 * BULK)]
    rows = [(moment(ts), "inserted", 60, *values) for ts, *values in frame[:INSERTS].iter_rows()]
    await store.write(MINUTES, frame[:1], covered=[])
    statement = await session.prepare(INSERT.format(table=store.table))

    async def insert() -> None:
        for row in rows:
            await statement.fetch(*row)
        await store._link.wait_applied(store.table)  # noqa: SLF001 - the same end as the store's

    return await compare(
        "write, QuestDB store",
        lambda: store.write(MINUTES, frame, covered=covered),
        insert,
        counts=(BULK, INSERTS),
        anchor_name="row by row over pgwire",
    )


async def measure_reads(store: QuestDBStore, session: asyncpg.Connection, rows: int) -> Measured:
    """Compare a read of the store with the same query by asyncpg alone."""
    statement = await session.prepare(SELECT.format(table=store.table))
    bounds = (moment(START), moment(START + 60 * rows))
    assert (await store.read(MINUTES, START, START + 60 * rows)).height == rows
    return await compare(
        f"read of {rows:,} rows, QuestDB store",
        lambda: store.read(MINUTES, START, START + 60 * rows),
        lambda: statement.fetch(*MINUTES, *bounds),
        counts=(rows, rows),
        anchor_name="asyncpg alone",
    )


async def measure_coverage(
    store: QuestDBStore, small: QuestDBStore, session: asyncpg.Connection, rows: int
) -> Measured:
    """Compare coverage of a long series, backfilled window by window, with that of a short one."""
    bar = candles(1).with_columns(ts=pl.lit(START, dtype=pl.Int64))
    for each, count in ((store, rows), (small, 10_000)):
        await each.write(SECONDS, bar, covered=[(START, START + 1)])
        await session.execute(
            FILL.format(table=each.table, start=START, node=SECONDS.node_id, rows=count - 1)
        )
        await each._link.wait_applied(each.table)  # noqa: SLF001 - filled on the server, to save time
        for at in range(START, START + count, WINDOW):
            end = min(at + WINDOW, START + count)
            await each.write(SECONDS, bar[:0], covered=[(at, end)])
        assert [span[:2] for span in await each.coverage(SECONDS)] == [(START, START + count)]

    async def ask(which: QuestDBStore) -> None:
        for _ in range(50):
            await which.coverage(SECONDS)

    return await compare(
        f"coverage of {rows:,} rows, QuestDB store",
        lambda: ask(store),
        lambda: ask(small),
        counts=(50, 50),
        anchor_name="of 10,000 rows",
        unit="calls",
    )


async def run(server: QuestDBServer, rows: int) -> list[Measured]:
    """Return every figure."""
    session = await asyncpg.connect(server.dsn)
    store = QuestDBStore(server.dsn, http=server.http, wal_timeout_s=120)
    small = QuestDBStore(server.dsn, http=server.http, table="small")
    figures = [await measure_writes(store, session)]
    figures += [await measure_reads(store, session, count) for count in (DAY_ROWS, READ_ROWS)]
    figures.append(await measure_coverage(store, small, session, rows))
    await session.close()
    for each in (store, small):
        await each.aclose()
    return figures


def main() -> None:
    """Print and record every figure."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000
    with questdb_at_hand() as server:
        if server is None:
            return
        figures = asyncio.run(run(server, rows))
    write("questdb", figures, {"questdb": server.jar.stem, "rows": rows})


if __name__ == "__main__":
    main()
