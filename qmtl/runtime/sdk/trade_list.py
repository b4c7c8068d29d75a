"""Round trips and the equity curve of a run, folded from its journal."""

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec
import numpy as np

from qmtl.core.event import AnyEvent, FundingPaid, IntentRecorded, OrderFilled, Transferred
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, Role, Side
from qmtl.core.position import Position
from qmtl.engine.settlement import LIQUIDATION_PREFIX
from qmtl.runtime.sdk.bars import Bars, Floats, Times


class Trade(msgspec.Struct, kw_only=True):
    """One position from flat to flat: average prices, costs as they were booked, profit after them.

    `exit_ts`, `exit` are None while it is open; its profit is then at the last close. `funding` is negative
    where it was paid. `bars` counts candles from entry to exit. `over_hole` says candles are missing within.
    """

    symbol: str
    entry_ts: int
    exit_ts: int | None = None
    side: str
    quantity: Decimal = ZERO
    entry: float = 0.0
    exit: float | None = None
    fee: Decimal = ZERO
    funding: Decimal = ZERO
    pnl: Decimal = ZERO
    why_in: str = ""
    why_out: str = ""
    bars: int = 0
    over_hole: bool = False


class _Open(msgspec.Struct):
    """A trade under way: what was bought and sold so far, in quote units."""

    trade: Trade
    held: Decimal = ZERO
    entered: Decimal = ZERO
    entry_value: Decimal = ZERO
    left: Decimal = ZERO
    exit_value: Decimal = ZERO


class TradeList:
    """Folds fills and funding, in order, into trades by symbol; `flatten` is why a flattened one ended."""

    def __init__(self, flatten: str = "flatten") -> None:
        self._flatten = flatten
        self.closed: list[Trade] = []
        self._open: dict[str, _Open] = {}
        self._intents: dict[str, OrderIntent] = {}

    def fold(self, events: Iterable[AnyEvent]) -> None:
        """Take the events of one journal."""
        for event in events:
            if isinstance(event, IntentRecorded):
                self._intents[event.client_order_id] = event.intent
            elif isinstance(event, OrderFilled):
                self._fill(event)
            elif isinstance(event, FundingPaid) and event.symbol in self._open:
                self._open[event.symbol].trade.funding += event.amount

    def open_trades(self, closes: Mapping[str, float]) -> list[Trade]:
        """Return what is not closed, its profit at `closes`."""
        return [self._finish(one, None, closes.get(symbol)) for symbol, one in self._open.items()]

    def _fill(self, fill: OrderFilled) -> None:
        signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
        one = self._open.get(fill.symbol)
        closing = ZERO
        if one is not None and (one.held > 0) != (signed > 0):
            closing = min(abs(one.held), fill.quantity)
        fee_left = fill.fee
        if one is not None and closing:
            share = fill.fee if closing == fill.quantity else fill.fee * closing / fill.quantity
            fee_left -= share
            one.trade.fee += share
            one.held += closing if signed > 0 else -closing
            one.left += closing
            one.exit_value += closing * fill.price
            if not one.held:
                one.trade.why_out = self._why_out(fill)
                self.closed.append(self._finish(one, fill.ts_ms, None))
                del self._open[fill.symbol]
        opening = fill.quantity - closing
        if opening:
            self._add(fill, opening, fee_left)

    def _add(self, fill: OrderFilled, quantity: Decimal, fee: Decimal) -> None:
        one = self._open.get(fill.symbol)
        if one is None:
            intent = self._intents.get(fill.client_order_id)
            side = "long" if fill.side is Side.BUY else "short"
            why = "" if intent is None else intent.why
            one = _Open(Trade(symbol=fill.symbol, entry_ts=fill.ts_ms, side=side, why_in=why))
            self._open[fill.symbol] = one
        one.trade.fee += fee
        one.held += quantity if fill.side is Side.BUY else -quantity
        one.entered += quantity
        one.entry_value += quantity * fill.price

    def _why_out(self, fill: OrderFilled) -> str:
        if fill.client_order_id.startswith(LIQUIDATION_PREFIX):
            return "liquidation"
        intent = self._intents.get(fill.client_order_id)
        if intent is None:
            return "foreign"
        if intent.role is Role.FLATTEN:
            return self._flatten
        return str(intent.role) if intent.role in {Role.STOP, Role.TARGET} else intent.why or str(intent.role)

    def _finish(self, one: _Open, exit_ts: int | None, close: float | None) -> Trade:
        trade = one.trade
        direction = 1 if trade.side == "long" else -1
        trade.quantity = one.entered
        trade.entry = float(one.entry_value / one.entered)
        exit_value = one.exit_value
        if exit_ts is None:
            at = Decimal(str(close)) if close is not None else one.entry_value / one.entered
            exit_value += abs(one.held) * at
        else:
            trade.exit_ts, trade.exit = exit_ts, float(one.exit_value / one.left)
        trade.pnl = direction * (exit_value - one.entry_value) - trade.fee + trade.funding
        return trade


class Curve(NamedTuple):
    """Equity and the position of each symbol at every close, with the closes themselves."""

    open_ms: Times
    equity: Floats
    positions: dict[str, Floats]
    closes: dict[str, Floats]


def fold_curve(events: Iterable[AnyEvent], markets: Mapping[str, Bars]) -> Curve:
    """Return the equity at the close of every bar of any of `markets`, from a journal's money and fills."""
    opens = _timeline(list(markets.values()))
    positions = {symbol: Position(symbol) for symbol in markets}
    steps: dict[str, list[tuple[int, float, float]]] = {symbol: [] for symbol in markets}
    money: list[tuple[int, float]] = []
    wallet = ZERO
    for event in events:
        if isinstance(event, OrderFilled):
            position = positions.setdefault(event.symbol, Position(event.symbol))
            wallet += position.fold(event.side, event.quantity, event.price, event.ts_ms) - event.fee
            step = (event.ts_ms, float(position.quantity), float(position.cost))
            steps.setdefault(event.symbol, []).append(step)
        elif isinstance(event, FundingPaid | Transferred):
            wallet += event.amount
        else:
            continue
        money.append((event.ts_ms, float(wallet)))
    interval = next(iter(markets.values())).interval_ms
    equity = _held_at(opens, interval, [(ts, value) for ts, value in money])
    closes: dict[str, Floats] = {}
    held: dict[str, Floats] = {}
    for symbol, bars in markets.items():
        at = np.searchsorted(bars.open_ms, opens, side="right") - 1
        closes[symbol] = np.where(at >= 0, bars.close[np.maximum(at, 0)], np.nan)
        held[symbol] = _held_at(opens, interval, [(ts, quantity) for ts, quantity, _ in steps[symbol]])
        cost = _held_at(opens, interval, [(ts, cost) for ts, _, cost in steps[symbol]])
        equity = equity + np.where(held[symbol] != 0, held[symbol] * closes[symbol] - cost, 0.0)
    return Curve(opens, equity, held, closes)


def _timeline(markets: Sequence[Bars]) -> Times:
    if len(markets) == 1:
        return markets[0].open_ms
    union: Times = np.unique(np.concatenate([bars.open_ms for bars in markets]))
    return union


def _held_at(opens: Times, interval: int, steps: list[tuple[int, float]]) -> Floats:
    """Return the last value stepped to by the end of each bar, 0 before the first."""
    if not steps:
        return np.zeros(len(opens))
    times: Any = np.array([ts for ts, _ in steps], np.int64)
    values = np.array([0.0, *(value for _, value in steps)])
    at = np.searchsorted(times, opens + interval, side="left")
    found: Floats = values[at]
    return found
