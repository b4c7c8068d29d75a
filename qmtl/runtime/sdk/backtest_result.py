"""What a backtest came to: trades, equity, costs, statistics, and how whole its data was."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from qmtl.core.event import (
    AnyEvent,
    DecisionMade,
    FundingPaid,
    IntentRecorded,
    OrderFilled,
    OrderRejected,
    Transferred,
)
from qmtl.core.money import dump_decimal
from qmtl.core.reason import Reason
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.overfitting import Interval, bootstrap_interval
from qmtl.engine.statistics import (
    Period,
    choose_period,
    exposure,
    max_drawdown,
    period_ends,
    returns_of,
    sharpe,
    summarize,
    summarize_trades,
)
from qmtl.runtime.sdk.backtest_job import BacktestJob, Segment
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars, Floats
from qmtl.runtime.sdk.market_history import Hole
from qmtl.runtime.sdk.trade_list import Curve, Trade, TradeList, fold_curve

_MOVING = frozenset({FundingPaid, IntentRecorded, OrderFilled, Transferred})


@dataclass
class BacktestResult:
    """One run; money in the settle currency, shares are of the first balance.

    `trades` are closed, `open_trades` are not; `plots` holds a line for each name, one float a bar of the
    first symbol; `funding_holes` are payments without a known rate while a position was open; `other_bound`
    is the run along the other path, for strategies that decide inside bars.
    """

    job: BacktestJob
    terms: BacktestTerms
    trades: list[Trade]
    open_trades: list[Trade]
    curve: Curve
    plots: dict[str, Floats]
    fees: float
    funding: float
    turnover: float
    counts: dict[str, Any]
    funding_holes: list[Hole]
    journals: list[MemoryJournal] = field(repr=False)
    other_bound: "BacktestResult | None" = None

    @property
    def wallet(self) -> float:
        """The first balance."""
        return float(self.terms.wallet)

    @property
    def net(self) -> float:
        """Profit after all costs, open positions at the last close."""
        return float(self.curve.equity[-1]) - self.wallet

    @property
    def gross(self) -> float:
        """Profit before fees and funding."""
        return self.net + self.fees - self.funding

    @cached_property
    def period(self) -> Period:
        """How often returns are looked at: days, hours in short runs, the candle where that is longer."""
        return choose_period(self.curve.open_ms, self.job.plan.interval_ms)

    @cached_property
    def returns(self) -> Floats:
        """Return of each period."""
        rows = period_ends(self.curve.open_ms, self.period)
        return returns_of(self.curve.equity[rows], self.wallet)

    @cached_property
    def drawdown(self) -> float:
        """Deepest fall of equity at any close below a close before it, as a positive share."""
        return -max_drawdown(returns_of(self.curve.equity, self.wallet))

    @cached_property
    def sharpe_interval(self) -> Interval:
        """The 95 % bootstrap interval of the yearly Sharpe ratio."""
        year = self.period.per_year
        return bootstrap_interval(self.returns, lambda some: sharpe(some, year), self.terms.seed)

    @cached_property
    def profits(self) -> Floats:
        """Profit of each closed trade."""
        return np.array([float(trade.pnl) for trade in self.trades])

    @property
    def trades_over_holes(self) -> list[Trade]:
        """Trades during which candles are missing."""
        return [trade for trade in (*self.trades, *self.open_trades) if trade.over_hole]

    @property
    def holes(self) -> list[Hole]:
        """Missing candles of every symbol, and missing funding rates."""
        several = len(self.job.histories) > 1
        found = [
            hole._replace(reason=f"{symbol}: {hole.reason}") if several else hole
            for symbol, history in self.job.histories.items()
            for hole in history.holes
            if not _is_excluded(hole, self.job.excluded)
        ]
        return [*found, *self.funding_holes]

    def figures(self) -> dict[str, Any]:
        """Return the key figures as plain data; what does not exist is None."""
        held = np.any([position != 0 for position in self.curve.positions.values()], axis=0)
        low, high = self.sharpe_interval
        body = {
            "trades": len(self.trades),
            "open_trades": len(self.open_trades),
            "net": self.net,
            "gross": self.gross,
            "fees": self.fees,
            "funding": self.funding,
            "net_pct": self.net / self.wallet,
            "final_equity": float(self.curve.equity[-1]),
            "max_drawdown_bars": self.drawdown,
            "turnover": self.turnover,
            "exposure": exposure(int(np.count_nonzero(held)), len(held)),
            "period": self.period.name,
            "sharpe_low": low,
            "sharpe_high": high,
            **summarize(self.returns, self.period),
            **{name: value for name, value in summarize_trades(self.profits).items() if name != "trades"},
            **self.counts,
        }
        return {name: _finite(value) for name, value in body.items()}

    def trades_hash(self) -> str:
        """Return the sha256 of all trades, which a repetition of the run must meet."""
        rows = [dump_trade(trade) for trade in (*self.trades, *self.open_trades)]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def dump_trade(trade: Trade) -> dict[str, Any]:
    """Return a trade as plain data, money as text."""
    return {
        name: dump_decimal(value) if name in {"quantity", "fee", "funding", "pnl"} else value
        for name, value in ((name, getattr(trade, name)) for name in trade.__struct_fields__)
    }


def collect_result(job: BacktestJob, terms: BacktestTerms, segments: Sequence[Segment]) -> BacktestResult:
    """Fold the journals of all stretches into one result."""
    fold = TradeList(flatten="excluded")
    events: list[AnyEvent] = []
    curves, missing = [], []
    open_trades: list[Trade] = []
    for segment in segments:
        markets = {symbol: history.bars for symbol, history in segment.histories.items()}
        # Most of a journal is bars and idle decisions: what moved money is looked at more than once.
        moved = [event for event in segment.journal.written if type(event) in _MOVING]
        events += moved
        fold.fold(moved)
        curves.append(fold_curve(moved, markets))
        missing += segment.missing
    last = {symbol: float(closes[-1]) for symbol, closes in curves[-1].closes.items()}
    open_trades = fold.open_trades(last)
    curve = _joined(curves)
    for trade in (*fold.closed, *open_trades):
        _look_at_candles(trade, segments[-1].histories[trade.symbol].bars, job)
    fills = [event for event in events if isinstance(event, OrderFilled)]
    return BacktestResult(
        job=job,
        terms=terms,
        trades=fold.closed,
        open_trades=open_trades,
        curve=curve,
        plots=_plots(segments),
        fees=float(sum(fill.fee for fill in fills)),
        funding=float(sum(event.amount for event in events if isinstance(event, FundingPaid))),
        turnover=float(sum(fill.quantity * fill.price for fill in fills)),
        counts=count_reasons(segment.journal for segment in segments),
        funding_holes=missing,
        journals=[segment.journal for segment in segments],
    )


def count_reasons(journals: Iterable[MemoryJournal]) -> dict[str, Any]:
    """Return how many closed bars had each reason, refusals by gate, and what the venue rejected."""
    reasons: Counter[Reason] = Counter()
    gates: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for journal in journals:
        for event in journal.written:
            if type(event) is DecisionMade:
                reasons[event.reason] += 1
                if event.reason is Reason.REFUSED:
                    gates[event.gate] += 1
            elif type(event) is OrderRejected:
                rejected[event.reason] += 1
        for stretch in journal.quiet:
            reasons[stretch.reason] += len(stretch.bars)
    by_word = {str(reason): count for reason, count in reasons.items()}
    return {"reasons": by_word, "gates": dict(gates), "rejected": dict(rejected)}


def _joined(curves: Sequence[Curve]) -> Curve:
    if len(curves) == 1:
        return curves[0]
    symbols = curves[0].positions
    return Curve(
        np.concatenate([curve.open_ms for curve in curves]),
        np.concatenate([curve.equity for curve in curves]),
        {symbol: np.concatenate([curve.positions[symbol] for curve in curves]) for symbol in symbols},
        {symbol: np.concatenate([curve.closes[symbol] for curve in curves]) for symbol in symbols},
    )


def _plots(segments: Sequence[Segment]) -> dict[str, Floats]:
    """Return the lines of the first symbol; of bars without signals the numbers that were noted."""
    first = next(iter(segments[0].histories))
    parts: dict[str, list[Floats]] = {}
    for segment in segments:
        bars = segment.histories[first].bars
        found = segment.signals.get(first)
        lines = _noted(segment.journal.events, first, bars) if found is None else found.plot
        for name, line in lines.items():
            parts.setdefault(name, []).append(np.asarray(line, dtype=np.float64))
    count = len(segments)
    return {name: np.concatenate(lines) for name, lines in parts.items() if len(lines) == count}


def _noted(events: Iterable[AnyEvent], symbol: str, bars: Bars) -> dict[str, Floats]:
    lines: dict[str, Floats] = {}
    decisions = (event for event in events if isinstance(event, DecisionMade) and event.symbol == symbol)
    for row, decision in enumerate(decisions):
        for name, value in (decision.numbers or {}).items():
            if name in {"close", "distance"}:
                continue
            if name not in lines:
                lines[name] = np.full(len(bars), np.nan)
            if row < len(bars):
                lines[name][row] = value
    return lines


def _look_at_candles(trade: Trade, newest: Bars, job: BacktestJob) -> None:
    """Count the candles of a trade, and flag it where some are missing; `newest` are the last stretch's."""
    opens = job.histories[trade.symbol].bars.open_ms
    end = int(newest.open_ms[-1]) if trade.exit_ts is None else trade.exit_ts
    first, last = np.searchsorted(opens, (trade.entry_ts, end), side="right").tolist()
    # An open trade lasts to the end of the last candle, where the next one would open.
    trade.bars = last - first + (trade.exit_ts is None)
    holes = job.histories[trade.symbol].holes
    trade.over_hole = any(hole.start_ms < end and hole.end_ms > trade.entry_ts for hole in holes)


def _is_excluded(hole: Hole, excluded: Iterable[tuple[int, int]]) -> bool:
    return any(start <= hole.start_ms and hole.end_ms <= end for start, end in excluded)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not np.isfinite(value) else value
