"""Small markets and jobs for backtests whose result is computed by hand."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, OrderFilled
from qmtl.core.instrument import Instrument
from qmtl.runtime.sdk import Bars, Strategy
from qmtl.runtime.sdk.backtest_job import BacktestJob
from qmtl.runtime.sdk.backtest_result import BacktestResult
from qmtl.runtime.sdk.backtest_run import run_backtest
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.market_history import Funding, MarketHistory, make_history
from qmtl.runtime.sdk.trade_plan import TradePlan

MINUTE = 60_000
START = 1_700_006_400_000
"""Midnight, a funding time."""


def instrument(symbol: str = "BTCUSDT", **changes: Any) -> Instrument:
    fields: dict[str, Any] = {
        "symbol": symbol,
        "base": symbol[:-4],
        "quote": "USDT",
        "settle": "USDT",
        "tick_size": Decimal("0.1"),
        "lot_size": Decimal("0.001"),
        "min_quantity": Decimal("0.001"),
        "max_quantity": Decimal(1000),
        "market_max_quantity": Decimal(120),
        "min_notional": Decimal(5),
    }
    return Instrument(**{**fields, **changes})


def candles(
    rows: Sequence[Sequence[float]], *, symbol: str = "BTCUSDT", at: Sequence[int] | None = None
) -> Bars:
    """Minutes from START (or the numbered ones) as (open, high, low, close)."""
    opens = np.array([START + MINUTE * number for number in (at or range(len(rows)))], np.int64)
    opened, high, low, close = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return Bars(opens, opened, high, low, close, np.ones(len(rows)), symbol=symbol)


def flat(count: int, price: float = 100.0) -> list[list[float]]:
    return [[price] * 4 for _ in range(count)]


def history(bars: Bars, funding: dict[int, Funding] | None = None) -> MarketHistory:
    return make_history(bars, source="test", node_id=f"ohlcv:test:{bars.symbol}:1m", funding=funding)


def run(
    strategy: Strategy,
    *markets: Bars,
    terms: BacktestTerms | None = None,
    plan: TradePlan | None = None,
    funding: dict[int, Funding] | None = None,
    warmup: int = 1,
    excluded: Sequence[tuple[int, int]] = (),
    **changes: Any,
) -> BacktestResult:
    """Run over `markets`; by default one unit is traded, without slippage."""
    symbols = ",".join(bars.symbol for bars in markets)
    return run_backtest(
        BacktestJob(
            strategy=strategy,
            plan=plan or TradePlan(symbols=symbols, quantity=Decimal(1)),
            histories={bars.symbol: history(bars, funding) for bars in markets},
            instruments={bars.symbol: instrument(bars.symbol, **changes) for bars in markets},
            terms=terms or BacktestTerms(slippage_ticks=0),
            warmup=warmup,
            excluded=excluded,
        )
    )


def fills_of(result: BacktestResult) -> list[tuple[int, str, str]]:
    """(minute, side, price) of every fill."""
    return [
        ((fill.ts_ms - START) // MINUTE, str(fill.side), str(fill.price))
        for fill in events_of(result)
        if isinstance(fill, OrderFilled)
    ]


def reasons_of(result: BacktestResult) -> list[str]:
    """The recorded reason of each bar, with the gate of a refusal."""
    decisions = [event for event in events_of(result) if isinstance(event, DecisionMade)]
    return [f"{one.reason}:{one.gate}" if one.gate else str(one.reason) for one in decisions]


def intents_of(result: BacktestResult) -> list[IntentRecorded]:
    return [event for event in events_of(result) if isinstance(event, IntentRecorded)]


def events_of(result: BacktestResult) -> list[AnyEvent]:
    return [event for journal in result.journals for event in journal.events]
