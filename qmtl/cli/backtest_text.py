"""A backtest as lines for people."""

from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qmtl.runtime.sdk.backtest_result import BacktestResult

_MINUTE_MS = 60_000


def dump_data(result: "BacktestResult", seconds: float) -> str:
    """Return how whole the data was and what was assumed: `129,600 bars (100 %, sha256:9c1e…) · fee …`."""
    histories = result.job.histories.values()
    bars = sum(len(history.bars) for history in histories)
    expected = sum(history.expected for history in histories)
    share = f"{coverage_text(bars, expected)} %"
    prints = ", ".join(f"{history.fingerprint[:11]}…" for history in histories)
    left = sum(len(part.bars) for one in histories for part in one.without(result.job.excluded))
    cut = f" · {bars - left:,} excluded" if left < bars else ""
    return f"{bars:,} bars ({share}, {prints}){cut} · {result.terms.describe()} · {seconds:.1f} s"


def coverage_text(bars: int, expected: int) -> str:
    """Return a share in percent that says 100 only where nothing is missing."""
    if bars == expected:
        return "100"
    return f"{min(99.99, int(10_000 * bars / expected) / 100):g}"


def dump_result(result: "BacktestResult") -> str:
    """Return the verdict: trades, net and what it is made of, drawdown, Sharpe ratio with its interval."""
    share = 100 / result.wallet
    costs = f"fees {signed(-result.fees * share)}, funding {signed(result.funding * share)}"
    net = f"net {signed(result.net * share)} % = gross {signed(result.gross * share)}, {costs}"
    parts = [f"{len(result.trades):,} trades", net, f"DD {abs(result.drawdown) * 100:.1f} %"]
    figures = result.figures()
    low, high = result.sharpe_interval
    parts.append(f"Sharpe {number(figures['sharpe'])} [{number(low)}, {number(high)}]")
    if not result.trades and not result.open_trades:
        # No silence without its reason: too few bars to warm up look like a strategy that never trades.
        bars = result.counts["reasons"].items()
        parts.append(", ".join(f"{count:,} bars {word.replace('_', ' ')}" for word, count in bars))
    if result.open_trades:
        parts.append(f"{len(result.open_trades)} open")
    gates = ", ".join(f"{count:,} {gate}" for gate, count in result.counts["gates"].items())
    if gates:
        parts.append(f"refused: {gates}")
    rejected = sum(result.counts["rejected"].values())
    if rejected:
        reasons = ", ".join(result.counts["rejected"])
        parts.append(f"{rejected} orders rejected ({reasons})")
    return " · ".join(parts)


def dump_bound(result: "BacktestResult") -> list[str]:
    """Return both ways through the candles, where the strategy decided inside them."""
    other = result.other_bound
    if other is None:
        return []
    told = [f"{one.terms.path}: net {signed(100 * one.net / one.wallet)} %" for one in (result, other)]
    return [f"INTRABAR ASSUMED · {' · '.join(told)}"]


def describe_holes(result: "BacktestResult") -> str:
    """Return the holes by reason with the first of each, and how many trades stand over them."""
    over = len(result.trades_over_holes)
    flagged = f" · {over} trade{'' if over == 1 else 's'} over missing candles" if over else ""
    return f"{describe_gaps(result)}{flagged}"


def describe_gaps(result: "BacktestResult") -> str:
    """Return the holes by reason with the first of each."""
    by_reason: dict[str, list[tuple[int, int]]] = {}
    for hole in (hole for history in result.job.histories.values() for hole in history.holes):
        by_reason.setdefault(hole.reason, []).append((hole.start_ms, hole.end_ms))
    told = []
    for reason, spans in by_reason.items():
        length = sum(end - start for start, end in spans)
        first = moment(spans[0][0])
        told.append(f"{len(spans):,} × {reason} ({length / _MINUTE_MS:,.0f} min, first {first})")
    if result.funding_holes:
        count = len(result.funding_holes)
        first = moment(result.funding_holes[0].start_ms)
        told.append(f"{count:,} funding rate{'' if count == 1 else 's'} unknown, counted 0 (first {first})")
    return f"holes: {'; '.join(told)}"


def moment(ts_ms: int) -> str:
    """Return a time in UTC as 2025-05-10 12:00."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def signed(value: float) -> str:
    """Return a number with its sign, one decimal; nothing rounds to a signed zero."""
    text = f"{abs(value):.1f}"
    if float(text) == 0:
        return "0.0"
    return f"{'+' if value > 0 else '−'}{text}"


def number(value: float | None) -> str:
    """Return a number with one decimal, a dash where there is none."""
    if value is None or not isfinite(value):
        return "–"
    return f"{'−' if value < 0 else ''}{abs(value):.1f}"
