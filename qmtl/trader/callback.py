"""The trader's strategy: message → collector → conditional → decision, driven by the engine."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from math import inf
from typing import Any

import msgspec

from qmtl.core.event import BarClosed, OrderFilled, PriceUpdated
from qmtl.core.interval import parse_interval
from qmtl.core.money import ZERO
from qmtl.core.order import Order, OrderStatus, OrderType, Role
from qmtl.core.position import Position
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.trader.collector import Collector
from qmtl.trader.conditional import BBConditional, RVConditional
from qmtl.trader.decision import Decision, DecisionParams, quiet_range

_EARLY_S = 0.001
"""Wake-ups are whole milliseconds; a time-out one fraction early is due."""


class Leaving(msgspec.Struct):
    """An exit under way: once begun it is carried through until the position is flat.

    `price` is the last seen; `since_ms` when it began, in the candle of `bar_ms`; `failed_ms` when an
    attempt last came to nothing.
    """

    why: str
    price: float
    since_ms: int
    bar_ms: int = 0
    is_urgent: bool = False
    failed_ms: int = 0


class CallbackState(msgspec.Struct):
    """Everything the strategy remembers beside its indicators."""

    last_trade_ms: int = 0
    direction: int = 0
    leaving: Leaving | None = None


class Callback(SilentStrategy):
    """The Bollinger trader as the engine drives it, with the published `callback(message)` face.

    Truth about position, orders and time comes from the engine's context at each call. `observers` are
    collectors fed by `callback`; `forward` takes each message on to the engine.
    """

    name = "bollinger"

    def __init__(
        self,
        params: DecisionParams | None = None,
        *,
        collectors: Mapping[str, Collector] | None = None,
        forward: Callable[[Mapping[str, Any]], object] | None = None,
    ) -> None:
        self.params = params = params or DecisionParams()
        self.symbol = params.symbol
        interval_ms = parse_interval(params.interval)
        self.bands = BBConditional(params.window, params.inner, params.outer, interval_ms=interval_ms)
        self.volatility = RVConditional(params.rv_window, params.rv_horizon, interval_ms=interval_ms)
        self.decision = Decision(self.params)
        self.collectors = dict(collectors or {})
        self.forward = forward
        self.unknown = 0
        self._state = CallbackState()
        self._tick: Decimal | None = None
        # Nothing can happen strictly between low and high while the position is the one they were
        # computed for; derived, never saved. An empty range sends every update through the rules.
        self._low, self._high = inf, -inf
        self._held: Decimal | None = None
        self._direction = 0
        self._bounds = (0.0, 0.0)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Callback":
        """Build from plain data as a session setup holds it; msgspec.ValidationError names what is wrong."""
        return cls(msgspec.convert(dict(params), DecisionParams, strict=False))

    @property
    def warmup(self) -> int:
        """Closed candles needed before the first decision."""
        params = self.params
        return max(params.window, params.rv_window + params.rv_horizon + 1)

    @property
    def is_warm(self) -> bool:
        """Tell whether bands and volatility exist."""
        return self.bands.is_full and (self.volatility.is_full or not self.params.has_volatility_gate)

    # --- the engine's calls ------------------------------------------------------------------------

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Decide at the price of the forming candle."""
        price = update.close
        if self._low < price < self._high and ctx.position(update.symbol).quantity is self._held:
            return
        if update.symbol == self.symbol:
            self._act(ctx, price, update.open_ms)

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Decide at the close, then fold the candle into bands and volatility.

        A bar that came late or before the start is only folded.
        """
        if bar.symbol != self.symbol:
            return
        close = bar.close
        position = ctx.position(bar.symbol)
        if not (bar.refilled or bar.warmup):
            if self.bands.is_full:
                ctx.note(self._numbers(close))
            if not (self._low < close < self._high and position.quantity is self._held):
                self._act(ctx, close, bar.open_ms)
        self.bands.fold(bar.open_ms, close)
        self.volatility.fold(bar.open_ms, close)
        self._set_range(position)

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Start the cool-down anew; the position is read from the account."""
        self._state.last_trade_ms = fill.ts_ms
        self._watch_position(ctx)

    def on_order(self, ctx: Context, order: Order) -> None:
        """Go on with an exit when an order in its way has ended."""
        if not order.is_done:
            return
        leaving = self._state.leaving
        if order.intent.role is Role.EXIT and leaving is not None and order.status is not OrderStatus.FILLED:
            leaving.is_urgent = True
            if order.status is OrderStatus.REJECTED:
                leaving.failed_ms = ctx.now_ms
                ctx.wake_in(self.params.exit_timeout_s)
        self._watch_position(ctx)
        if self._state.leaving is not None:
            self._leave(ctx, self._state.leaving)

    def on_timer(self, ctx: Context) -> None:
        """Cancel what waited too long, and go on with an exit."""
        self._watch_position(ctx)
        self._recall(ctx)
        if self._state.leaving is not None:
            self._leave(ctx, self._state.leaving)

    def _recall(self, ctx: Context) -> None:
        for order in ctx.orders:
            role, waited = order.intent.role, ctx.elapsed_real_s(order.created_ms) + _EARLY_S
            is_entry_late = role is Role.ENTRY and waited >= self.params.entry_timeout_s
            is_exit_late = role is Role.EXIT and waited >= self.params.exit_timeout_s
            if is_entry_late or (is_exit_late and order.intent.type is not OrderType.MARKET):
                ctx.cancel(order)

    def dump_state(self) -> dict[str, Any]:
        """Return everything remembered as plain data."""
        return {
            "state": msgspec.to_builtins(self._state),
            "bands": self.bands.dump(),
            "volatility": self.volatility.dump(),
        }

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned."""
        self._state = msgspec.convert(state["state"], CallbackState)
        self.bands.load(state["bands"])
        self.volatility.load(state["volatility"])
        self._low, self._high, self._held = inf, -inf, None

    # --- the rules at work -------------------------------------------------------------------------

    def _act(self, ctx: Context, price: float, bar_ms: int) -> None:
        """Apply the rules at `price` in the candle that opened at `bar_ms`."""
        self._watch_position(ctx)
        # An order adopted after a restore has no wake-up of its own.
        self._recall(ctx)
        state = self._state
        position = ctx.position(self.symbol)
        held = position.quantity
        instrument = ctx.instrument(self.symbol)
        if instrument.tick_size is not self._tick:
            self._tick = instrument.tick_size
            self.params = msgspec.structs.replace(self.params, tick_size=self._tick)
            self.decision = Decision(self.params)
        if state.leaving is not None:
            state.leaving.price = price
            self._leave(ctx, state.leaving)
        elif held:
            conditions = self.bands.judge(price)
            why = self.decision.find_exit(price, held, position.entry_price, conditions)
            if why:
                state.leaving = Leaving(why, price, ctx.now_ms, bar_ms)
                ctx.wake_in(self.params.exit_timeout_s)
                self._leave(ctx, state.leaving)
        elif self.is_warm:
            self._enter(ctx, price, bar_ms)
        self._set_range(position)

    def _enter(self, ctx: Context, price: float, bar_ms: int) -> None:
        conditions: dict[str, Any] = {**self.bands.judge(price), **self.volatility.judge()}
        if self.decision.find_entry(conditions) is None:
            return
        last_ms = self._state.last_trade_ms
        conditions["startTime"] = bar_ms
        conditions["hasOpenOrder"] = bool(ctx.orders)
        conditions["sinceTrade_s"] = (ctx.now_ms - last_ms) / 1000 if last_ms else None
        gate = self.decision.find_gate(conditions)
        amount = ZERO if gate else self._amount(ctx, Decimal(str(price)))
        if not amount:
            gate = gate or "size"
        if gate:
            ctx.refuse(gate, self._numbers(price))
            return
        for intent in self.decision.trade(price, **conditions, amount=amount):
            if ctx.submit(intent) is not None:
                ctx.wake_in(self.params.entry_timeout_s)

    def _amount(self, ctx: Context, price: Decimal) -> Decimal:
        """Base units of an entry on the lot, zero when that is less than the least."""
        params = self.params
        quantity = params.quantity
        if params.notional is not None:
            quantity = params.notional / price
        elif params.size_pct is not None:
            quantity = max(ctx.account.equity(), ZERO) * params.size_pct / price
        return ctx.instrument(self.symbol).floor_quantity(quantity)

    def _leave(self, ctx: Context, leaving: Leaving) -> None:
        """Close the position: cancel resting entries, send the exit, take MARKET once it waited too long."""
        position = ctx.position(self.symbol)
        if not position.quantity:
            return
        orders = ctx.orders
        for order in orders:
            if order.intent.role is Role.ENTRY:
                ctx.cancel(order)
        timeout_s = self.params.exit_timeout_s
        is_blocked = any(order.intent.role is Role.ENTRY for order in orders)
        if is_blocked and ctx.elapsed_real_s(leaving.since_ms) + _EARLY_S < timeout_s:
            return
        if any(order.intent.role is not Role.ENTRY for order in orders):
            return
        if leaving.failed_ms and ctx.elapsed_real_s(leaving.failed_ms) + _EARLY_S < timeout_s:
            return
        intent = self.decision.leave(
            leaving.price, position.quantity, leaving.why, is_urgent=leaving.is_urgent, bar_ms=leaving.bar_ms
        )
        leaving.failed_ms = ctx.now_ms if ctx.submit(intent) is None else 0
        ctx.wake_in(timeout_s)

    def _watch_position(self, ctx: Context) -> None:
        """Notice a position that became flat or turned, whoever did it."""
        state = self._state
        held = ctx.position(self.symbol).quantity
        direction = (held > 0) - (held < 0)
        if direction != state.direction:
            if state.direction:
                state.last_trade_ms = max(state.last_trade_ms, ctx.now_ms)
                state.leaving = None
            state.direction = direction
            if not held:
                for order in ctx.orders:
                    if order.intent.role is Role.EXIT:
                        ctx.cancel(order)

    def _set_range(self, position: Position) -> None:
        held = position.quantity
        if held is not self._held:
            self._held = held
            self._direction = (held > 0) - (held < 0)
            stop, target = self.decision.bounds(held, position.entry_price)
            self._bounds = (float(stop), float(target))
        if self._state.leaving is not None:
            self._low, self._high = inf, -inf
        else:
            bands = self.bands
            self._low, self._high = quiet_range(
                self._direction, self._bounds, bands.levels, bands.levels_before
            )

    def _numbers(self, price: float) -> dict[str, float]:
        """What a reason shows: the price, the bands, and how far the nearer inner one is (share of price)."""
        _, upper_inner, upper, lower_inner, lower = self.bands.levels
        is_upper_nearer = upper_inner - price < price - lower_inner
        return {
            "close": price,
            "upperInter": upper_inner,
            "upperBand": upper,
            "lowerInter": lower_inner,
            "lowerBand": lower,
            "distance": (upper_inner - price if is_upper_nearer else price - lower_inner) / price,
        }

    # --- the published face ------------------------------------------------------------------------

    def callback(self, message: Mapping[str, Any]) -> None:
        """Take one raw message: market data, order update or account update.

        It goes to the collector of its kind, if there is one, then on to `forward`. Messages of no known
        kind are counted in `unknown`.
        """
        kind = _branch(message)
        if kind is None:
            self.unknown += 1
            return
        for collector in self.collectors.values():
            if collector.takes(message):
                collector.collect(message)
        if self.forward is not None:
            self.forward(message)


def _branch(message: Mapping[str, Any]) -> str | None:
    data = message.get("data", message)
    kind = data.get("e") if isinstance(data, Mapping) else None
    return _BRANCHES.get(kind) if isinstance(kind, str) else None


_BRANCHES = {
    "kline": "market",
    "markPriceUpdate": "market",
    "aggTrade": "market",
    "ORDER_TRADE_UPDATE": "order",
    "ACCOUNT_UPDATE": "account",
}
