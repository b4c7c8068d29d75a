"""A covered fetch beside the work it cannot do without: mapped read, checks and SHA-256 of the same bars.

The fetch goes through the whole provider on an embedded store (coverage, storage, conformance, fingerprint,
gates), without its cache; the anchor maps the store's files, checks the columns in polars and hashes them.
A cached fetch and a PARTIAL_FILL answer before a slow exchange are shown beside them.
"""

import asyncio
import hashlib
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from bench.measure import Measured, caching, compare, write
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.sdk.history import FetchReport, SeriesKey
from qmtl.runtime.sdk.seamless_data_provider import CacheConfig, SeamlessDataProvider

KEY = SeriesKey("ohlcv:binance:BTC/USDT:1m", 60)
START = 1_640_995_200
SIZES = (1_500, 100_000, 525_600)
IMPORTS = "from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider", "import polars"


def make_bars(count: int) -> pl.DataFrame:
    """Return a random walk of one-minute bars."""
    dice = np.random.default_rng(31)
    close = np.abs(100 + np.cumsum(dice.normal(0, 0.1, count))) + 50
    opened = np.roll(close, 1)
    opened[0] = close[0]
    return pl.DataFrame(
        {
            "ts": START + 60 * np.arange(count),
            "open": opened,
            "high": np.maximum(opened, close) + 0.1,
            "low": np.minimum(opened, close) - 0.1,
            "close": close,
            "volume": np.ones(count),
        }
    )


def map_file(path: Path) -> pl.DataFrame:
    """Return the rows of an Arrow file without copying them."""
    frame = pl.from_arrow(pa.ipc.open_file(pa.memory_map(str(path))).read_all(), rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame


def read_check_hash(files: list[Path], count: int) -> str:
    """Do what no covered fetch can leave out, and nothing else."""
    parts, rows = [], 0
    for path in files:
        parts.append(map_file(path))
        rows += parts[-1].height
        if rows >= count:
            break
    frame = pl.concat(parts).head(count)
    price = pl.col("open", "high", "low", "close")
    is_clean = frame.select(
        (pl.col("ts").diff().drop_nulls() > 0).all()
        & (pl.col("ts") % 60 == 0).all()
        & pl.all_horizontal(pl.col("open", "high", "low", "close", "volume").is_finite()).all()
        & (pl.col("low") <= pl.min_horizontal("open", "close")).all()
        & (pl.col("high") >= pl.max_horizontal("open", "close")).all()
        & pl.all_horizontal(price > 0, pl.col("volume") >= 0).all()
    ).item()
    assert is_clean
    digest = hashlib.sha256()
    for name in frame.columns:
        digest.update(np.ascontiguousarray(frame[name].to_numpy()).data)
    return digest.hexdigest()


def compare_fetch(runner: asyncio.Runner, folder: Path, count: int, *, cached: bool) -> Measured:
    """Compare a covered fetch of `count` bars with its anchor."""
    store = EmbeddedStore(folder)
    provider = SeamlessDataProvider(store=store, cache=CacheConfig(enable=cached))
    files = sorted(folder.rglob("*.arrow"))
    times = 40 if count < 10_000 else 4

    def fetch() -> None:
        async def several() -> None:
            for _ in range(times):
                answer = await provider.fetch(START, START + 60 * count, node_id=KEY.node_id, interval=60)
                assert len(answer) == count

        runner.run(several())

    def anchor() -> None:
        for _ in range(times):
            read_check_hash(files, count)

    name = f"covered fetch of {count:,} bars" + (", cached" if cached else "")
    return compare(
        name, fetch, anchor, count=times * count, anchor_name="read + checks + SHA-256", unit="bars"
    )


def wall_ms(runner: asyncio.Runner, folder: Path, count: int) -> float:
    """Return the median wall milliseconds of one covered fetch."""
    provider = SeamlessDataProvider(store=EmbeddedStore(folder), cache=CacheConfig(enable=False))

    async def once() -> float:
        began = time.perf_counter()
        await provider.fetch(START, START + 60 * count, node_id=KEY.node_id, interval=60)
        return (time.perf_counter() - began) * 1000

    return statistics.median(runner.run(once()) for _ in range(9))


class SlowExchange:
    """Takes five seconds for everything."""

    async def fetch_report(self, start: int, end: int, *, node_id: str, interval: int) -> FetchReport:
        """Bring nothing, late."""
        await asyncio.sleep(5)
        return FetchReport(make_bars(0), [], 1)


def partial_fill_p99(runner: asyncio.Runner, folder: Path) -> tuple[float, float]:
    """Return p99 milliseconds of PARTIAL_FILL answers with a hole, and of covered fetches, in turn."""
    window = {"node_id": KEY.node_id, "interval": 60}
    first = START + 60 * (max(SIZES) - 1_000)
    options: dict[str, Any] = {"store": EmbeddedStore(folder), "cache": CacheConfig(enable=False)}

    async def measure() -> tuple[float, float]:
        partial = SeamlessDataProvider(fetcher=SlowExchange(), strategy="partial_fill", **options)
        covered = SeamlessDataProvider(fetcher=SlowExchange(), **options)
        took: tuple[list[float], list[float]] = ([], [])
        for _ in range(300):
            for times, provider, end in (
                (took[0], partial, first + 90_000),
                (took[1], covered, first + 60_000),
            ):
                began = time.perf_counter()
                await provider.fetch(first, end, **window)  # type: ignore[arg-type]
                times.append((time.perf_counter() - began) * 1000)
        await partial._desk().background.aclose()  # noqa: SLF001 - the job would outlive the measurement
        await partial._desk().filler.aclose()  # noqa: SLF001
        return tuple(statistics.quantiles(times, n=100)[98] for times in took)  # type: ignore[return-value]

    return runner.run(measure())


def import_ratio() -> float:
    """Return how much longer importing the provider takes than importing polars; medians of five."""

    def median(code: str) -> float:
        def once() -> float:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, env=caching())
            return time.perf_counter() - began

        return statistics.median(once() for _ in range(5))

    provider, polars = map(median, IMPORTS)
    return provider / polars


def main() -> None:
    """Measure and write the results."""
    with tempfile.TemporaryDirectory() as name, asyncio.Runner() as runner:
        folder = Path(name) / "store"
        frame = make_bars(max(SIZES))
        store = EmbeddedStore(folder)
        runner.run(store.write(KEY, frame, covered=[(START, START + 60 * frame.height)]))
        figures = [
            compare_fetch(runner, folder, count, cached=cached) for count in SIZES for cached in (False, True)
        ]
        wall = {f"{count}": round(wall_ms(runner, folder, count), 2) for count in SIZES}
        partial_ms, covered_ms = partial_fill_p99(runner, folder)
    extra = {
        "wall_ms_of_one_fetch": wall,
        "partial_fill_p99_ms": round(partial_ms, 3),
        "covered_p99_ms": round(covered_ms, 3),
        "import_time_over_polars": round(import_ratio(), 2),
    }
    for label, value in extra.items():
        print(f"{label}: {value}")
    write("covered_fetch", figures, extra)


if __name__ == "__main__":
    main()
