"""What the event face gives an author: floats outside, decimals on the venue's steps inside."""

import difflib
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, NamedTuple

from qmtl.core.instrument import Instrument, parse_symbol
from qmtl.core.money import ZERO, ceil_to_step, floor_to_step
from qmtl.core.order import Order, OrderIntent, OrderType, Role, Side, TimeInForce
from qmtl.engine.strategy import Context
from qmtl.runtime.sdk.bar_ring import BarRing
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.trade_plan import TradePlan

_DETAILS = ("notional", "limit", "stop", "post_only", "reduce_only", "symbol", "why")


class Tick(NamedTuple):
    """A price of the forming bar; open, high, low and volume are the bar's so far."""

    symbol: str
    ts_ms: int
    open_ms: int
    price: float
    open: float
    high: float
    low: float
    volume: float


class Fill(NamedTuple):
    """One trade of an own order: `side` BUY or SELL, `quantity` base units, `fee` in the settle currency."""

    symbol: str
    ts_ms: int
    side: str
    quantity: float
    price: float
    fee: float
    is_maker: bool
    why: str
    order_id: str


class OrderView(NamedTuple):
    """An own order as it stands; `status` is the word of `OrderStatus`."""

    id: str
    symbol: str
    side: str
    type: str
    quantity: float
    filled: float
    limit: float | None
    stop: float | None
    reduce_only: bool
    status: str
    reason: str
    why: str
    created_ms: int


def view_order(order: Order) -> OrderView:
    """Return an order as an author sees it."""
    intent = order.intent
    return OrderView(
        order.client_order_id,
        intent.symbol,
        str(intent.side),
        str(intent.type),
        float(intent.quantity),
        float(order.filled),
        None if intent.limit_price is None else float(intent.limit_price),
        None if intent.stop_price is None else float(intent.stop_price),
        intent.reduce_only,
        str(order.status),
        order.reason,
        intent.why,
        order.created_ms,
    )


class AuthorContext:
    """The account, the market and the orders of one strategy, during one call.

    `state` is a dict of plain data that survives restarts: the journal rebuilds it. Symbols may be left
    out: then the plan's first is meant.
    """

    def __init__(
        self, plan: TradePlan, rings: dict[str, BarRing], closes: Callable[[str], Any], state: dict[str, Any]
    ) -> None:
        self.state = state
        self._plan = plan
        self._rings = rings
        self._closes = closes
        self._ctx: Context | None = None
        self._main = plan.markets[0]
        self._bar_ms = 0

    def enter(self, ctx: Context, bar_ms: int) -> None:
        """Face the engine for one call about the bar that opened at `bar_ms`."""
        self._ctx, self._bar_ms = ctx, bar_ms

    @property
    def _engine(self) -> Context:
        if self._ctx is None:
            raise StrategyError("ctx: only usable inside on_bar, on_tick, on_fill, on_order, on_timer")
        return self._ctx

    def _symbol(self, symbol: str | None) -> str:
        if symbol is None:
            return self._main
        name = parse_symbol(symbol)
        if name not in self._rings:
            raise StrategyError(f"symbol {symbol}: not among those traded ({', '.join(self._rings)})")
        return name

    # --- what is -----------------------------------------------------------------------------------

    @property
    def symbol(self) -> str:
        """The first symbol of the plan."""
        return self._main

    @property
    def now(self) -> int:
        """Exchange time in UTC milliseconds."""
        return self._engine.now_ms

    @property
    def equity(self) -> float:
        """Wallet plus open profit, in the settle currency."""
        return float(self._engine.account.equity())

    @property
    def funding(self) -> float:
        """Funding booked so far: received less paid, in the settle currency."""
        return float(self._engine.account.funding)

    @property
    def position(self) -> float:
        """Signed base units held of the first symbol."""
        return self.position_of(self._main)

    def position_of(self, symbol: str | None = None) -> float:
        """Return the signed base units held of a symbol."""
        return float(self._engine.position(self._symbol(symbol)).quantity)

    def entry_price(self, symbol: str | None = None) -> float:
        """Return the average entry of the position, 0.0 when flat."""
        return float(self._engine.position(self._symbol(symbol)).entry_price)

    @property
    def orders(self) -> Sequence[OrderView]:
        """Own orders that have not ended, oldest first."""
        return tuple(view_order(order) for order in self._engine.orders)

    def bars(self, count: int, symbol: str | None = None) -> Bars:
        """Return the last `count` closed bars, or as many as there are.

        StrategyError above the strategy's `lookback`.
        """
        ring = self._rings[self._symbol(symbol)]
        if count > ring.keep:
            raise StrategyError(f"bars({count}): at most {ring.keep}; set the strategy's lookback")
        return ring.last(count)

    # --- what to do --------------------------------------------------------------------------------

    def buy(self, quantity: float | None = None, **details: Any) -> OrderView | None:
        """Send a buy order; see `sell`."""
        return self._send(Side.BUY, quantity, **_known("buy", details))

    def sell(self, quantity: float | None = None, **details: Any) -> OrderView | None:
        """Send a sell order and return it, None where it was refused (the refusal is recorded).

        `quantity` base units, or `notional=` quote units, else the configured size; `limit=` and `stop=` are
        prices; `post_only=`, `reduce_only=`, `symbol=`, `why=`. Prices go to the tick that is never worse
        than asked, quantities down to the lot; what is below the venue's least is refused, not raised.
        """
        return self._send(Side.SELL, quantity, **_known("sell", details))

    def _send(
        self,
        side: Side,
        quantity: float | None,
        *,
        notional: float | None = None,
        limit: float | None = None,
        stop: float | None = None,
        post_only: bool = False,
        reduce_only: bool = False,
        symbol: str | None = None,
        why: str = "",
    ) -> OrderView | None:
        engine, name = self._engine, self._symbol(symbol)
        instrument = engine.instrument(name)
        limit_price = _on_tick(limit, "limit", instrument, is_up=side is Side.SELL)
        stop_price = _on_tick(stop, "stop", instrument, is_up=side is Side.BUY)
        if post_only and (limit_price is None or stop_price is not None):
            raise StrategyError("post_only: only a limit order can rest")
        price = limit_price or stop_price
        if stop_price is not None:
            kind = OrderType.STOP_MARKET if limit_price is None else OrderType.STOP
        else:
            kind = OrderType.MARKET if limit_price is None else OrderType.LIMIT
        tif = None if limit_price is None else TimeInForce.GTX if post_only else TimeInForce.GTC
        order = engine.submit(
            OrderIntent(
                symbol=name,
                side=side,
                quantity=self._quantity(name, instrument, quantity, notional, price),
                type=kind,
                limit_price=limit_price,
                stop_price=stop_price,
                time_in_force=tif,
                reduce_only=reduce_only,
                role=_role(kind, reduce_only=reduce_only),
                bar_ms=self._bar_ms,
                why=why,
            )
        )
        return None if order is None else view_order(order)

    def _quantity(
        self,
        symbol: str,
        instrument: Instrument,
        quantity: float | None,
        notional: float | None,
        price: Decimal | None,
    ) -> Decimal:
        """Return base units on the lot; what is less than the least is left for risk to refuse."""
        if quantity is not None:
            return floor_to_step(_number(quantity, "quantity"), instrument.lot_size)
        mark = self._engine.account.marks.get(symbol)
        at = price if price is not None else None if mark is None else Decimal(str(mark))
        if at is None:
            return ZERO
        if notional is not None:
            return floor_to_step(_number(notional, "notional") / at, instrument.lot_size)
        return self._plan.size(self._engine.account, instrument, float(at), self._closes(symbol))

    def cancel(self, order: OrderView | str | None = None) -> None:
        """Cancel one order, given itself or its id, or every own order; what has ended stays as it is."""
        wanted = None if order is None else order if isinstance(order, str) else order.id
        for one in self._engine.orders:
            if wanted is None or one.client_order_id == wanted:
                self._engine.cancel(one)

    def close(self, symbol: str | None = None, why: str = "") -> OrderView | None:
        """Close the position of a symbol by MARKET, reduce-only; None when flat or refused."""
        name = self._symbol(symbol)
        held = self._engine.position(name).quantity
        if not held:
            return None
        side = Side.SELL if held > 0 else Side.BUY
        return self._send(side, float(abs(held)), reduce_only=True, symbol=name, why=why or "close")

    def note(self, why: str, **numbers: float) -> None:
        """Write down what was thought about this bar: it stands beside its recorded reason."""
        told = {name: float(value) for name, value in numbers.items()} or None
        self._engine.note(told, why)

    def refuse(self, gate: str) -> None:
        """Record that a signal was there and the strategy's own `gate` (cooldown, …) kept it back."""
        self._engine.refuse(gate)

    def wake_in(self, seconds: float) -> None:
        """Have `on_timer` called once so many real seconds passed."""
        self._engine.wake_in(seconds)


def _role(kind: OrderType, *, reduce_only: bool) -> Role:
    """What rests to leave a position is a stop or a target; what leaves at once is an exit."""
    if not reduce_only:
        return Role.ENTRY
    return {OrderType.MARKET: Role.EXIT, OrderType.LIMIT: Role.TARGET}.get(kind, Role.STOP)


def _number(value: float, name: str) -> Decimal:
    number = float(value)
    if not isfinite(number) or number < 0:
        raise StrategyError(f"{name}: expected a finite number of at least 0, got {value!r}")
    # Fractions of a lot in the last bits (0.1 + 0.2) are not meant.
    return Decimal(str(round(number, 12)))


def _known(verb: str, details: dict[str, Any]) -> dict[str, Any]:
    """Return the details of an order; StrategyError names one that there is not, and the nearest that is."""
    for name in details:
        if name not in _DETAILS:
            near = difflib.get_close_matches(name, _DETAILS, n=1, cutoff=0.6)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise StrategyError(f"ctx.{verb} has no {name} (quantity, {', '.join(_DETAILS)}){hint}")
    return details


def _on_tick(price: float | None, name: str, instrument: Instrument, *, is_up: bool) -> Decimal | None:
    """Round a price to the tick; prices a hair beside a tick by binary fractions are on it."""
    if price is None:
        return None
    number = _number(price, name)
    if not number:
        raise StrategyError(f"{name}: expected a price above 0, got {price!r}")
    rounded = ceil_to_step if is_up else floor_to_step
    return max(rounded(number, instrument.tick_size), instrument.tick_size)
