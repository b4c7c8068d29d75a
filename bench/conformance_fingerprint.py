"""Checks and names of rows beside bare ones: `python -m bench.conformance_fingerprint` (seamless.md §16).

Item 32: a fingerprint takes at most 4 times a plain SHA-256 of the same bytes (ratio of rates at least 0.25).
Item 33: conformance of clean rows takes at most 6 times bare polars checks (at least 1/6). Both on a year of
one-minute bars, with a day and trades beside them.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import polars as pl

from bench.measure import Measured, compare, write
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.fingerprint import fingerprint

START = 1_706_745_600
YEAR, DAY = 525_600, 1_440
NODE, TRADES = "ohlcv:binance:BTC/USDT:1m", "trades:binance:BTC/USDT"


def bars(count: int) -> pl.DataFrame:
    """A clean seeded walk."""
    source = np.random.default_rng(7)
    close = np.round(60_000 * np.exp(np.cumsum(source.normal(0, 0.0005, count))), 1)
    opened = np.concatenate(([60_000.0], close[:-1]))
    ts = np.arange(START, START + 60 * count, 60)
    columns = {"ts": ts, "open": opened, "high": np.maximum(opened, close) + 5}
    columns |= {"low": np.minimum(opened, close) - 5, "close": close, "volume": source.uniform(0, 100, count)}
    return pl.DataFrame(columns)


def trades(count: int) -> pl.DataFrame:
    """Trades a tenth of a second apart, ids as an exchange counts them."""
    ts_ms = np.arange(START * 1000, START * 1000 + 100 * count, 100)
    numbers = pl.Series("id", np.arange(10**9, 10**9 + count)).cast(pl.String)
    frame = pl.DataFrame({"ts": ts_ms // 1000, "ts_ms": ts_ms}).with_columns(numbers)
    return frame.with_columns(price=pl.lit(60_000.0), amount=pl.lit(0.5), side=pl.lit("buy"))


def plain_sha(frame: pl.DataFrame) -> Callable[[], str]:
    """SHA-256 over the bytes of every column, as they lie in memory."""
    pieces = []
    for column in frame.get_columns():
        if column.dtype == pl.String:
            pieces.append("".join(column.to_list()).encode())
        else:
            pieces.append(column.to_numpy().tobytes())

    def work() -> str:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return digest.hexdigest()

    return work


def bare_checks(frame: pl.DataFrame) -> Callable[[], object]:
    """The rules of bars as anybody would write them in one polars expression each."""
    ts, low, high = pl.col("ts"), pl.col("low"), pl.col("high")
    values = ("open", "high", "low", "close", "volume")
    checks = [
        (ts.diff().drop_nulls() > 0).all().alias("order"),
        (ts % 60 == 0).all().alias("grid"),
        *(pl.col(name).is_finite().all().alias(name) for name in values),
        (
            (low <= pl.min_horizontal("open", "close"))
            & (high >= pl.max_horizontal("open", "close"))
            & (low > 0)
        )
        .all()
        .alias("range"),
        (pl.col("volume") >= 0).all().alias("volume sign"),
    ]
    return lambda: frame.select(checks).row(0)


def repeated(work: Callable[[], object], times: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(times):
            work()

    return run


def named(frame: pl.DataFrame, node_id: str, interval: int) -> Callable[[], str]:
    end = int(frame["ts"][-1]) + interval
    return lambda: fingerprint(frame, node_id=node_id, interval=interval, start=START, end=end)


def figure(
    name: str, ours: Callable[[], object], bare: Callable[[], object], rows: int, anchor: str
) -> Measured:
    times = max(1, YEAR // rows // 4)
    return compare(
        name,
        repeated(ours, times),
        repeated(bare, times),
        count=rows * times,
        anchor_name=anchor,
        unit="rows",
    )


def main() -> None:
    """Print and record every figure."""
    pipeline = ConformancePipeline()
    figures = []
    for label, rows in (("a year", YEAR), ("a day", DAY)):
        frame = bars(rows)
        ours = named(frame, NODE, 60)
        figures.append(figure(f"fingerprint, {label} of bars", ours, plain_sha(frame), rows, "plain SHA-256"))
    frame = trades(YEAR)
    ours = named(frame, TRADES, 3_600)
    figures.append(figure("fingerprint, 525,600 trades", ours, plain_sha(frame), YEAR, "plain SHA-256"))
    for label, rows in (("a year", YEAR), ("a day", DAY)):
        frame = bars(rows)
        assert pipeline.normalize(frame, interval=60)[1].flags_counts == {}

        def check(frame: pl.DataFrame = frame) -> object:
            return pipeline.normalize(frame, interval=60)

        figures.append(figure(f"conformance, {label}", check, bare_checks(frame), rows, "bare polars checks"))
    write("conformance_fingerprint", figures)


if __name__ == "__main__":
    main()
