"""The event tier's run as the kernel describes its own: trades as plain rows, equity at every close."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from qmtl.core.event import BarClosed, OrderFilled, SessionSetup, SessionStarted, Transferred
from qmtl.core.instrument import Instrument
from qmtl.core.order import Side
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.kernel import Candles, Conditions
from qmtl.engine.kernel_run import KernelRun
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import MatchingVenue
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import StrategyPort
from qmtl.engine.venue_models import NoSlippage, TickSlippage, VenueModels

MINUTE = 60_000


class Row(NamedTuple):
    """One round trip; exit row -1 and exit price 0 while it is open."""

    entry_row: int
    exit_row: int
    direction: int
    quantity: Decimal
    entry: Decimal
    exit: Decimal
    fees: Decimal


def events_of(candles: Candles, symbol: str) -> list[BarClosed]:
    columns = [column.tolist() for column in candles]
    return [
        BarClosed(at + MINUTE - 1, symbol, int(at), opened, high, low, close, 1.0)
        for at, opened, high, low, close in zip(*columns, strict=True)
    ]


def run_events(
    strategy: StrategyPort,
    candles: Candles,
    instrument: Instrument,
    conditions: Conditions,
    wrap: Callable[[SimulatedVenue], MatchingVenue] = lambda venue: venue,
) -> tuple[list[Row], list[Decimal]]:
    """Return trades and the equity at each close of the event tier; `wrap` may put a venue around its own."""
    engine = Engine(strategy, MemoryJournal())
    slippage = TickSlippage(conditions.slippage_ticks) if conditions.slippage_ticks else NoSlippage()
    core = MatchingCore(
        {instrument.symbol: instrument},
        models=VenueModels(fees=conditions.fees, slippage=slippage),
        first_wallet=conditions.wallet,
        leverage=conditions.leverage,
    )
    driver = Backtest(engine, wrap(SimulatedVenue(core, fill=conditions.fill)))
    setup = SessionSetup(strategy="a:B", instruments=(instrument,))
    driver.start(SessionStarted(0, "e", "backtest", setup), Transferred(0, "USDT", conditions.wallet))
    equity = []
    for event in events_of(candles, instrument.symbol):
        driver.run([event])
        driver.run([])
        equity.append(engine.account.equity())
    fills = [event for _, event in engine.journal.read() if isinstance(event, OrderFilled)]
    return rows_of(fills, candles), equity


def rows_of(fills: Sequence[OrderFilled], candles: Candles) -> list[Row]:
    """Pair fills that open with fills that close; a fill of both is read as two."""
    rows: list[Row] = []
    held = 0
    for fill in fills:
        at = int(np.searchsorted(candles.open_ms, fill.ts_ms, side="right")) - 1
        if held:
            last = rows[-1]
            rows[-1] = last._replace(exit_row=at, exit=fill.price, fees=last.fees + fill.fee)
            held = 0
        else:
            held = 1 if fill.side is Side.BUY else -1
            rows.append(Row(at, -1, held, fill.quantity, fill.price, Decimal(0), fill.fee))
    return rows


def rows_of_kernel(run: KernelRun) -> list[Row]:
    market = run.market
    lot, step, money = market.instrument.lot_size, market.price_step, market.money_step
    return [
        Row(t[0], t[1], t[2], t[3] * lot, t[4] * step, t[5] * step, t[6] * money) for t in run.trades.tolist()
    ]


def equity_of_kernel(run: KernelRun) -> list[Decimal]:
    return [value * run.market.money_step for value in run.equity_money.tolist()]


def walk(
    seed: int, rows: int, *, step: float = 0.0006, price: float = 60_000.0, tick: float = 0.1
) -> Candles:
    """A seeded market on the tick, with gaps between a close and the next open, and missing minutes."""
    draw = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(draw.normal(0, step, rows)))
    opened = np.concatenate(([price], close[:-1])) * (
        1 + draw.normal(0, step, rows) * (draw.random(rows) < 0.2)
    )
    high = np.maximum(opened, close) * (1 + np.abs(draw.normal(0, step, rows)))
    low = np.minimum(opened, close) * (1 - np.abs(draw.normal(0, step, rows)))
    minutes = 29_000_000 + np.cumsum(1 + (draw.random(rows) < 0.01) * draw.integers(0, 40, rows))
    places = round(-np.log10(tick))
    return Candles(
        minutes * MINUTE, *(np.round(np.round(c / tick) * tick, places) for c in (opened, high, low, close))
    )
