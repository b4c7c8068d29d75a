"""Which rows of bars or trades break which rule, a column of booleans each."""

from typing import TYPE_CHECKING

from qmtl.runtime.sdk.column_cast import Cast

if TYPE_CHECKING:
    import polars as pl

RowFlags = dict[str, "pl.Series"]

_LIMIT_S = 10**11
"""From here on a number is no epoch second but milliseconds or finer."""
_VALUES = {True: ("open", "high", "low", "close", "volume"), False: ("price", "amount")}


def is_clean(
    frame: "pl.DataFrame", interval: int | None, offset: int, closed_by: int, *, is_bars: bool
) -> bool:
    """Tell whether no row breaks a rule and all ascend strictly; gaps are allowed. One pass."""
    import polars as pl

    if not frame.height:
        return True
    if any(frame[name].null_count() for name in frame.columns if name != "side"):
        return False
    ts = pl.col("ts")
    values = _VALUES[is_bars]
    # The sum is finite only if all are; an overflow of finite ones just takes the longer road.
    total = sum((pl.col(name) for name in values[1:]), pl.col(values[0]))
    rules = [total.is_finite(), _makes_sense(is_bars=is_bars)]
    if is_bars:
        rules.append((ts > ts.shift()).fill_null(True))
        if interval is not None:
            rules.append(ts % interval == offset % interval)
    else:
        later = pl.col("ts_ms") > pl.col("ts_ms").shift()
        same = (pl.col("ts_ms") == pl.col("ts_ms").shift()) & (pl.col("id") > pl.col("id").shift())
        rules.append((later | same).fill_null(True))
    first, last, *good = frame.select(
        ts.min().alias("first"),
        ts.max().alias("last"),
        *(rule.all().alias(str(n)) for n, rule in enumerate(rules)),
    ).row(0)
    limit = _LIMIT_S if interval is None or not is_bars else min(_LIMIT_S, closed_by - interval + 1)
    return bool(first > 0 and last < limit and all(good))


def bar_flags(cast: Cast, interval: int | None, offset: int, closed_by: int) -> RowFlags:
    """Return the flags of bars; `closed_by` is the latest end of a closed cell."""
    import polars as pl

    ts = pl.col("ts")
    is_valid = _is_epoch_seconds(ts)
    flags = {"invalid_timestamp": ~is_valid}
    if interval is None:
        flags["misaligned_ts"] = pl.lit(False)
        flags["forming_bar"] = pl.lit(False)
    else:
        flags["misaligned_ts"] = is_valid & (ts % interval != offset % interval)
        flags["forming_bar"] = is_valid & (ts + interval > closed_by)
    is_finite = _is_finite(is_bars=True)
    flags["non_finite"] = ~is_finite
    flags["ohlc_inconsistent"] = is_finite & ~_makes_sense(is_bars=True)
    rows = _evaluate(cast.frame, flags)
    for marked in cast.uneven:
        rows["misaligned_ts"] = rows["misaligned_ts"] | (marked & ~rows["invalid_timestamp"])
    return rows


def trade_flags(cast: Cast) -> RowFlags:
    """Return the flags of trades."""
    import polars as pl

    ts_ms = pl.col("ts_ms")
    is_valid = _is_epoch_seconds(pl.col("ts")) & ts_ms.is_between(1, _LIMIT_S * 1000 - 1).fill_null(False)
    is_finite = _is_finite(is_bars=False)
    flags = {
        "invalid_timestamp": ~is_valid,
        "non_finite": ~is_finite,
        "invalid_trade": is_valid & is_finite & ~_makes_sense(is_bars=False),
    }
    rows = _evaluate(cast.frame, flags)
    for marked in cast.uneven:
        rows["invalid_trade"] = rows["invalid_trade"] | (marked & ~rows["invalid_timestamp"])
    return rows


def _makes_sense(*, is_bars: bool) -> "pl.Expr":
    import polars as pl

    if is_bars:
        low, high = pl.col("low"), pl.col("high")
        first, last = pl.col("open"), pl.col("close")
        inside = (low <= first) & (low <= last) & (high >= first) & (high >= last)
        return (low > 0) & inside & (pl.col("volume") >= 0)
    side = pl.col("side")
    named = pl.col("id").is_not_null() & (pl.col("id") != "")
    sided = side.is_null() | side.is_in(["buy", "sell"])
    timed = pl.col("ts") == pl.col("ts_ms") // 1000
    return (pl.col("price") > 0) & (pl.col("amount") >= 0) & named.fill_null(False) & sided & timed


def _is_epoch_seconds(ts: "pl.Expr") -> "pl.Expr":
    return ts.is_between(1, _LIMIT_S - 1).fill_null(False)


def _is_finite(*, is_bars: bool) -> "pl.Expr":
    import polars as pl

    return pl.all_horizontal(pl.col(name).is_finite().fill_null(False) for name in _VALUES[is_bars])


def _evaluate(frame: "pl.DataFrame", flags: "dict[str, pl.Expr]") -> RowFlags:
    made = frame.with_columns(rule.fill_null(False).alias(f"is {name}") for name, rule in flags.items())
    return {name: made[f"is {name}"] for name in flags}
