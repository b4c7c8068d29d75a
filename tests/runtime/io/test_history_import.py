"""Imported rows in a store, what audits say of it, and artifacts of what it holds."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from qmtl.core.bar import BarError
from qmtl.engine.clock import VirtualClock
from qmtl.runtime.io.artifacts import ArtifactReader
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.history_audit import Difference, audit_series
from qmtl.runtime.io.history_import import read_history, store_history
from qmtl.runtime.io.stored_artifact import publish_stored
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.history import CoverageSpan, SeriesKey

assert_same = partial(assert_frame_equal, check_exact=True)

KEY = SeriesKey("ohlcv:binance:BTC/USDT:1m", 60)
TRADES = SeriesKey("trades:binance:BTC/USDT", 3_600)
DAY = 1_738_368_000
NOW = DAY + 86_400 * 30
STRICT = ConformancePipeline(clock=VirtualClock(NOW * 1000))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with EmbeddedStore(tmp_path / "store", clock=VirtualClock(NOW * 1000)) as opened:
        yield opened


def bars(*minutes: int) -> pl.DataFrame:
    ts = pl.Series("ts", [DAY + 60 * minute for minute in minutes], pl.Int64)
    return pl.DataFrame([ts]).with_columns(
        open=pl.lit(2.0), high=pl.lit(3.0), low=pl.lit(1.0), close=pl.lit(2.5), volume=pl.lit(1.0)
    )


async def put(store: EmbeddedStore, rows: pl.DataFrame, now_s: int = NOW) -> tuple[int, int]:
    return await store_history(store, KEY, rows, now_s=now_s, stabilization_bars=2)


async def differences(
    store: EmbeddedStore, artifacts: Path | None = None, key: SeriesKey = KEY
) -> list[Difference]:
    reader = None if artifacts is None else ArtifactReader(artifacts)
    return [one async for one in audit_series(store, key, STRICT, reader)]


async def test_gaps_stay_missing_and_young_bars_are_fetched_once_more(store: EmbeddedStore) -> None:
    rows = bars(0, 1, 2, 5, 6, 7, 8)
    assert await put(store, rows, DAY + 9 * 60 + 30) == (DAY, DAY + 540)
    assert_same(await store.read(KEY, DAY, NOW), rows)
    # At 9:30 the cells that end after 7:30 may still change.
    assert await store.coverage(KEY) == [
        CoverageSpan(DAY, DAY + 180, "rows"),
        CoverageSpan(DAY + 300, DAY + 420, "rows"),
        CoverageSpan(DAY + 420, DAY + 540, "young"),
    ]
    await put(store, rows)
    assert [one.kind for one in await store.coverage(KEY)] == ["rows", "rows"]
    assert await differences(store) == []


async def test_many_rows_go_in_pieces_and_are_told(store: EmbeddedStore) -> None:
    rows = bars(*range(120_000))
    told: list[int] = []
    await store_history(store, KEY, rows, now_s=DAY + 10**8, stabilization_bars=2, on_progress=told.append)
    assert told == [50_000, 50_000, 20_000]
    assert await store.coverage(KEY) == [CoverageSpan(DAY, DAY + 7_200_000, "rows")]
    assert (await store.read(KEY, DAY, DAY + 10**8)).height == 120_000


async def test_trades_cover_the_hours_from_first_to_last(store: EmbeddedStore) -> None:
    count = 60_000
    times = pl.Series("ts_ms", [DAY * 1000 + 500_000 + 400 * n for n in range(count)], pl.Int64)
    rows = pl.DataFrame([times]).select(
        (pl.col("ts_ms") // 1000).alias("ts"),
        "ts_ms",
        pl.int_range(count).cast(pl.String).str.zfill(6).alias("id"),
        price=pl.lit(1.0),
        amount=pl.lit(1.0),
        side=pl.lit("buy"),
    )
    span = await store_history(store, TRADES, rows, now_s=NOW, stabilization_bars=2)
    assert span == (DAY, DAY + 7 * 3_600)
    assert await store.coverage(TRADES) == [CoverageSpan(DAY, DAY + 7 * 3_600, "rows")]
    assert_same(await store.read(TRADES, DAY, NOW), rows)
    assert await differences(store, key=TRADES) == []


def test_a_file_that_breaks_a_rule_is_refused_with_its_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    bars(0, 1).with_columns(volume=pl.Series([1.0, float("nan")])).write_parquet(path)
    with pytest.raises(
        BarError, match=r"a.parquet: rows refused: non_finite: 1 .*first in row 1, ts 17383680"
    ):
        read_history(path, KEY, STRICT)
    bars().write_parquet(path)
    with pytest.raises(BarError, match=r"a.parquet: no rows"):
        read_history(path, KEY, STRICT)
    bars(0, 0).write_parquet(path)
    rows, report = read_history(path, KEY, STRICT)
    assert (rows.height, dict(report.flags_counts)) == (1, {"duplicate_ts": 2})


async def test_an_audit_names_what_coverage_claims_and_rows_that_make_no_sense(store: EmbeddedStore) -> None:
    await store.write(KEY, bars(0, 1), covered=[(DAY, DAY + 240)])
    await store.write(KEY, bars(9).with_columns(high=pl.lit(0.1)), covered=[(DAY + 600, DAY + 660)])
    found = await differences(store)
    assert [one[:3] for one in found] == [
        ("coverage", DAY + 120, DAY + 240),
        ("coverage", DAY + 600, DAY + 660),
        ("coverage", DAY + 540, DAY + 600),
        ("conformance", DAY, DAY + 660),
    ]
    assert found[0].what == "claimed as stored, and holds no rows"
    assert found[2].what == "holds rows that coverage does not know of"
    assert found[3].what.startswith("ohlc_inconsistent: 1 bars contradict themselves")


async def test_34_an_artifact_stays_when_storage_is_mutated(store: EmbeddedStore, tmp_path: Path) -> None:
    rows = bars(0, 1, 2, 4, 5)
    await put(store, rows)
    base = tmp_path / "artifacts"
    clock = VirtualClock(NOW * 1000)
    span = (DAY, DAY + 360)
    published = await publish_stored(
        store, KEY, span, base, conformance=STRICT, stabilization_bars=2, clock=clock
    )
    reader = ArtifactReader(base)
    manifest = reader.manifest(published.fingerprint)
    assert manifest["coverage"] == [[DAY, DAY + 180], [DAY + 240, DAY + 360]]
    assert manifest["conformance"]["flags"] == {"gap": 1}
    assert await differences(store, base) == []
    await put(store, bars(1).with_columns(close=pl.lit(2.75)))
    await put(store, bars(3))
    await store.aclose()  # nothing but the artifact is read
    named = reader.resolve(KEY.node_id, 60, NOW, DAY, DAY + 360)
    assert named == published.fingerprint
    assert_same(reader.open(named), rows)


async def test_an_audit_compares_with_the_newest_artifact_of_each_range(
    store: EmbeddedStore, tmp_path: Path
) -> None:
    await put(store, bars(*range(10)))
    base = tmp_path / "artifacts"

    async def publish(first: int, last: int, second: int) -> None:
        clock = VirtualClock((NOW + second) * 1000)
        await publish_stored(
            store,
            KEY,
            (DAY + 60 * first, DAY + 60 * last),
            base,
            conformance=STRICT,
            stabilization_bars=2,
            clock=clock,
        )

    await publish(0, 5, 1)
    await publish(5, 10, 2)
    await put(store, bars(2).with_columns(close=pl.lit(2.75)))
    assert [one[:3] for one in await differences(store, base)] == [("artifact", DAY, DAY + 300)]
    await publish(0, 10, 3)
    assert await differences(store, base) == []
