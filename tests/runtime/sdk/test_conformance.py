"""Each flag of the table: when it is raised, what happens to the rows, what refuses the frame."""

from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.conformance import (
    CONFORMANCE_PRESETS,
    FLAGS,
    ConformancePipeline,
    ConformancePipelineError,
    ConformancePreset,
)
from qmtl.runtime.sdk.history import BAR_COLUMNS

assert_same = partial(assert_frame_equal, check_exact=True)

START = 1_706_745_600
CLOCK = VirtualClock((START + 10**6) * 1000)
BAR = {"ts": START, "open": 2.0, "high": 3.0, "low": 1.0, "close": 2.5, "volume": 10.0}
TRADE = {"ts": START, "ts_ms": START * 1000, "id": "a", "price": 2.0, "amount": 1.0, "side": "buy"}


def bars(*changes: dict[str, Any]) -> pl.DataFrame:
    """One bar a minute, each with its change."""
    rows = [{**BAR, "ts": START + 60 * n, **change} for n, change in enumerate(changes)]
    return pl.DataFrame(rows, strict=False)


def trades(*changes: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([{**TRADE, "id": str(n), **change} for n, change in enumerate(changes)], strict=False)


def run(
    frame: pl.DataFrame, interval: int | None = 60, preset: str = "permissive-dev", **kwargs: Any
) -> tuple[pl.DataFrame, dict[str, int]]:
    out, report = ConformancePipeline(preset, clock=CLOCK).normalize(frame, interval=interval, **kwargs)
    assert [line.split(":")[0] for line in report.warnings] == list(report.flags_counts)
    return out, dict(report.flags_counts)


def test_clean_rows_pass_untouched() -> None:
    frame = bars({}, {}, {})
    out, report = ConformancePipeline(clock=CLOCK).normalize(frame, interval=60)
    assert_same(out, frame)
    assert (report.warnings, dict(report.flags_counts)) == ((), {})
    out, flags = run(bars({}).clear(), preset="strict-blocking")
    assert (out.schema, flags) == (frame.schema, {})


NAN, INF, BIG = float("nan"), float("inf"), 1_706_745_600_000
BAD_BARS: list[tuple[str, dict[str, Any]]] = [
    ("invalid_timestamp", {"ts": None}),
    ("invalid_timestamp", {"ts": 0}),
    ("invalid_timestamp", {"ts": -60}),
    ("invalid_timestamp", {"ts": BIG}),
    ("invalid_timestamp", {"ts": 10**11}),
    ("misaligned_ts", {"ts": START + 61}),
    ("non_finite", {"open": None}),
    ("non_finite", {"close": NAN}),
    ("non_finite", {"high": INF}),
    ("non_finite", {"low": -INF}),
    ("non_finite", {"volume": NAN}),
    ("non_finite", {"volume": None}),
    ("ohlc_inconsistent", {"high": 2.4}),
    ("ohlc_inconsistent", {"low": 2.1}),
    ("ohlc_inconsistent", {"low": 4.0}),
    ("ohlc_inconsistent", {"open": 0.0, "low": 0.0}),
    ("ohlc_inconsistent", {"open": -1.0, "low": -1.0}),
    ("ohlc_inconsistent", {"volume": -0.1}),
]


@pytest.mark.parametrize(("flag", "change"), BAD_BARS)
def test_a_bad_bar_blocks_or_is_dropped(flag: str, change: dict[str, Any]) -> None:
    frame = bars({}, change)
    with pytest.raises(ConformancePipelineError, match=f"rows refused: {flag}: 1 ") as caught:
        run(frame, preset="strict-blocking")
    assert caught.value.report.flags_counts == {flag: 1}
    out, flags = run(frame)
    assert (out["ts"].to_list(), flags) == ([START], {flag: 1})


BAD_TRADES: list[tuple[str, dict[str, Any]]] = [
    ("invalid_timestamp", {"ts_ms": 0}),
    ("invalid_timestamp", {"ts": None}),
    ("non_finite", {"price": NAN}),
    ("non_finite", {"amount": None}),
    ("invalid_trade", {"price": 0.0}),
    ("invalid_trade", {"amount": -1.0}),
    ("invalid_trade", {"side": "long"}),
    ("invalid_trade", {"id": ""}),
    ("invalid_trade", {"id": None}),
    ("invalid_trade", {"ts": START + 1}),
]


@pytest.mark.parametrize(("flag", "change"), BAD_TRADES)
def test_a_bad_trade_blocks_or_is_dropped(flag: str, change: dict[str, Any]) -> None:
    frame = trades({}, {"side": None}, change)
    with pytest.raises(ConformancePipelineError):
        run(frame, 3_600, "strict-blocking")
    out, flags = run(frame, 3_600)
    assert (out["id"].to_list(), flags) == (["0", "1"], {flag: 1})


def test_duplicates_count_every_row_and_the_last_is_kept() -> None:
    frame = bars({}, {"ts": START, "close": 2.1}, {"ts": START, "close": 2.2}, {"ts": START + 60})
    out, flags = run(frame, preset="strict-blocking")
    assert flags == {"duplicate_ts": 3}
    assert out.select("ts", "close").rows() == [(START, 2.2), (START + 60, 2.5)]
    twice = trades({}, {"id": "0", "price": 2.5}, {"id": "0", "ts_ms": START * 1000 + 1})
    out, flags = run(twice, 3_600, "strict-blocking")
    assert (flags, out["price"].to_list()) == ({"duplicate_ts": 2}, [2.5, 2.0])


def test_rows_are_put_in_order_without_a_flag() -> None:
    out, flags = run(bars({}, {}, {}, {}).reverse(), preset="strict-blocking")
    assert (out["ts"].is_sorted(), out.height, flags) == (True, 4, {})


def test_a_gap_counts_the_missing_cells() -> None:
    frame = bars({}, {"ts": START + 300}, {"ts": START + 420})
    out, report = ConformancePipeline(clock=CLOCK).normalize(frame, interval=60)
    assert (out.height, dict(report.flags_counts)) == (3, {"gap": 5})
    assert report.warnings == (f"gap: 5 cells are missing (first [{START + 60}, {START + 300}))",)
    assert run(frame, None)[1] == {}, "without an interval there is no grid"
    assert run(frame, 120)[1] == {"misaligned_ts": 2}, "the caller's interval wins"


def test_a_forming_bar_is_dropped_until_two_seconds_after_its_end() -> None:
    frame = bars({}, {})
    for late_s, flags in (
        (61, {"forming_bar": 2}),
        (62, {"forming_bar": 1}),
        (121, {"forming_bar": 1}),
        (122, {}),
    ):
        clock = VirtualClock((START + late_s) * 1000)
        out, report = ConformancePipeline(clock=clock).normalize(frame, interval=60)
        assert (out.height, dict(report.flags_counts)) == (2 - flags.get("forming_bar", 0), flags)


def test_weeks_begin_on_monday() -> None:
    monday = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp())
    assert run(bars({"ts": monday}), 604_800, "strict-blocking")[1] == {}
    assert run(bars({"ts": monday - 345_600}), 604_800)[1] == {"misaligned_ts": 1}
    assert run(bars({"ts": START + 7}), 60, "strict-blocking", offset=7)[1] == {}


def test_casts_lose_nothing_and_say_so() -> None:
    frame = bars({}, {}).with_columns(
        pl.col("ts").cast(pl.Int32), pl.col("volume").cast(pl.Int64), pl.col("open").cast(pl.Float32)
    )
    out, flags = run(frame, preset="strict-blocking")
    assert_same(out, bars({}, {}))
    assert flags == {"dtype_cast": 2, "ts_cast": 1}
    assert out.columns == [name for name, _ in BAR_COLUMNS]


def test_times_are_cast_by_their_own_unit() -> None:
    moment = datetime.fromtimestamp(START, UTC)
    for unit in ("ms", "us", "ns"):
        for zone, stamp in ((None, moment.replace(tzinfo=None)), ("UTC", moment)):
            frame = bars({}).with_columns(ts=pl.lit(stamp, pl.Datetime(unit, zone)))
            out, flags = run(frame, preset="strict-blocking")
            assert (out.rows(), flags) == (bars({}).rows(), {"ts_cast": 1})
    seoul = bars({}).with_columns(
        ts=pl.lit(moment.astimezone(timezone(timedelta(hours=9)))).dt.convert_time_zone("Asia/Seoul")
    )
    out, flags = run(seoul, preset="strict-blocking")
    assert (out["ts"].to_list(), flags) == ([START], {"ts_cast": 1, "ts_timezone_normalized": 1})
    dated = bars({}).with_columns(ts=pl.lit(moment.date()))
    assert run(dated, 86_400)[1] == {"ts_cast": 1}


def test_a_time_between_seconds_is_off_the_grid_and_units_are_not_guessed() -> None:
    late = datetime.fromtimestamp(START + 60, UTC) + timedelta(microseconds=1)
    frame = pl.concat(
        [
            bars({}).with_columns(ts=pl.lit(at, pl.Datetime("us", "UTC")))
            for at in (late - timedelta(days=1), late)
        ]
    )
    assert run(frame)[1] == {"ts_cast": 1, "misaligned_ts": 2}
    assert run(bars({}, {"ts": START + 60.5}))[1] == {"ts_cast": 1, "misaligned_ts": 1}
    with pytest.raises(ConformancePipelineError, match="invalid_timestamp: 1 "):
        run(bars({"ts": BIG}), preset="strict-blocking")


@pytest.mark.parametrize("preset", CONFORMANCE_PRESETS)
def test_missing_columns_and_foreign_types_refuse_even_in_permissive_dev(preset: str) -> None:
    with pytest.raises(ConformancePipelineError, match=r"missing_column: 1 .*volume; found ts,") as caught:
        run(bars({}).drop("volume"), preset=preset)
    assert caught.value.report.flags_counts == {"missing_column": 1}
    for change in ({"close": pl.lit("2.5")}, {"ts": pl.lit("2024-02-01")}, {"volume": pl.lit(2**53 + 1)}):
        with pytest.raises(ConformancePipelineError, match="dtype_mismatch: 1") as caught:
            run(bars({}).with_columns(**change), preset=preset)
        assert caught.value.report.flags_counts == {"dtype_mismatch": 1}


def test_partial_ok_and_presets_decide_what_refuses() -> None:
    frame = bars({}, {"high": 0.1})
    out, report = ConformancePipeline(partial_ok=True, clock=CLOCK).normalize(frame, interval=60)
    assert (out.height, dict(report.flags_counts)) == (1, {"ohlc_inconsistent": 1})
    with pytest.raises(ConformancePipelineError):
        ConformancePipeline("permissive-dev", partial_ok=False, clock=CLOCK).normalize(frame, interval=60)
    strict_gaps = ConformancePreset(frozenset({"gap"}))
    with pytest.raises(ConformancePipelineError, match="gap: 1 "):
        ConformancePipeline(strict_gaps, clock=CLOCK).normalize(bars({}, {"ts": START + 120}), interval=60)
    with pytest.raises(ValueError, match="did you mean strict-blocking"):
        ConformancePipeline("strict-bloking")
    with pytest.raises(ValueError, match="did you mean gap"):
        ConformancePreset(frozenset({"gaps"}))
    assert len(FLAGS) == len(set(FLAGS)) == 13


def test_the_schema_may_be_named() -> None:
    ambiguous = trades({}).with_columns(open=pl.lit(1.0))
    assert run(ambiguous, 3_600, schema="trades")[0].columns == list(TRADE)
    with pytest.raises(ConformancePipelineError, match="missing_column"):
        run(trades({}), 60, schema=BAR_COLUMNS)
    with pytest.raises(ValueError, match="schema 'candles' is not known"):
        run(bars({}), schema="candles")
