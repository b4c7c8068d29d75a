"""The signals face on the engine's strategy port: signals become orders, stops and targets rest.

A signal at a close is sent as MARKET; where it fills is the venue's assumption (the next bar's open, in a
backtest). Stop and target are placed when the entry has filled and rest reduce-only, in every tier and live.
An exit signal closes with MARKET. An entry signal while a position is held does nothing, unless the same bar
says to leave it and the signal points the other way: then it reverses, the entry being sent once the exit
has filled. Long and short on one bar are neither, refused by `conflict`.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.event import BarClosed, OrderFilled, PriceUpdated
from qmtl.core.money import ONE, ZERO
from qmtl.core.order import Order, OrderIntent, OrderStatus, OrderType, Role, Side, TimeInForce
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.runtime.sdk.signal_reader import (
    EXIT_LONG,
    EXIT_SHORT,
    LONG,
    SHORT,
    SignalReader,
    WindowReader,
    measure_distance,
)
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan

BARRIER_S = 2.0
"""How long the bars of several symbols are waited for after the first of one minute."""
RETRY_S = 5.0
"""After a refused exit the next one is tried so much later."""

_RESTING = (Role.STOP, Role.TARGET)
_ENTRIES, _BOTH = LONG | SHORT, LONG | SHORT
_GONE = (OrderStatus.PENDING_CANCEL, OrderStatus.REJECTED)


class Reversal(msgspec.Struct):
    """An entry that waits until the position before it is closed."""

    side: Side
    quantity: Decimal
    bar_ms: int
    why: str


class MarketState(msgspec.Struct):
    """What is remembered of one symbol: a reversal to come, and why a position is being left.

    `bar_ms` is the bar that said so, `entered_ms` the bar of the last entry.
    """

    reversal: Reversal | None = None
    leaving: str = ""
    bar_ms: int = 0
    entered_ms: int = -1


class SignalFace(SilentStrategy):
    """Trades the signals of one strategy over the symbols of its plan."""

    name = "signals"

    def __init__(self, strategy: Strategy, plan: TradePlan, readers: Mapping[str, SignalReader]) -> None:
        self.strategy = strategy
        self.plan = plan
        self.name = type(strategy).__name__
        self.readers = readers
        self._markets = {symbol: MarketState() for symbol in readers}
        self._stop, self._target = _decimal(strategy.fraction("stop")), _decimal(strategy.fraction("target"))
        self._resting = (self._stop is not None) + (self._target is not None)
        self._on_tick = strategy.decide_on == "tick"
        self._window = plan.volatility_window + 1 if plan.volatility_target is not None else 0
        self._round_ms = -1
        self._arrived: list[str] = []
        self._first = plan.markets[0]
        self._numbers: dict[str, float] = {}
        self._is_warm = False

    @property
    def warmup(self) -> int:
        """Closed bars needed before the first decision."""
        return max((r.warmup for r in self.readers.values() if isinstance(r, WindowReader)), default=0)

    @property
    def lookback(self) -> int:
        """Closed bars that are looked at, for signals and for the size of an entry."""
        return max(self.warmup, self._window)

    @property
    def lines(self) -> dict[str, float]:
        """The plotted lines at the last decided bar of the first symbol, as people see them."""
        return {name: value for name, value in self._numbers.items() if name not in {"close", "distance"}}

    @property
    def is_warm(self) -> bool:
        """Tell whether the next bar can be decided."""
        if not self._is_warm:
            self._is_warm = all(reader.missing <= 1 for reader in self.readers.values())
        return self._is_warm

    # --- the engine's calls ------------------------------------------------------------------------

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Decide at the close; with several symbols once the bars of all of them are there."""
        symbol = bar.symbol
        reader = self.readers.get(symbol)
        if reader is None:
            return
        reader.push(bar)
        if bar.refilled or bar.warmup:
            return
        if len(self.readers) == 1:
            self._decide(ctx, symbol, reader, bar.open_ms)
        else:
            self._gather(ctx, bar)

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Decide on the forming bar, where the strategy wants that."""
        reader = self.readers.get(update.symbol)
        if self._on_tick and isinstance(reader, WindowReader) and reader.missing <= 1:
            mask, numbers = reader.read_forming(update)
            self._act(ctx, update.symbol, mask, numbers, update.open_ms)

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Place or resize stop and target; once flat, take them away and send a waiting reversal."""
        symbol = fill.symbol
        if symbol in self._markets:
            self._follow(ctx, symbol)

    def on_order(self, ctx: Context, order: Order) -> None:
        """Leave by MARKET where a stop or target was refused, and try a refused exit again."""
        intent = order.intent
        market = self._markets.get(intent.symbol)
        if market is None or not order.is_done or intent.role is Role.ENTRY:
            return
        held = ctx.position(intent.symbol).quantity
        if not held or order.status is OrderStatus.FILLED:
            return
        if intent.role is Role.EXIT:
            if order.status is OrderStatus.REJECTED:
                ctx.wake_in(RETRY_S)
            elif market.leaving:
                self._leave(ctx, intent.symbol, held, market.leaving, market.bar_ms)
        elif order.status is OrderStatus.REJECTED and not market.leaving:
            # Price is beyond it already: the venue refuses a stop that would trigger at once.
            self._leave(ctx, intent.symbol, held, str(intent.role), intent.bar_ms)

    def on_timer(self, ctx: Context) -> None:
        """Decide without bars that did not come, and go on with exits."""
        if self._arrived:
            self._decide_all(ctx)
        for symbol, market in self._markets.items():
            held = ctx.position(symbol).quantity
            if market.leaving and held:
                self._leave(ctx, symbol, held, market.leaving, market.bar_ms)

    # --- several symbols ---------------------------------------------------------------------------

    def _gather(self, ctx: Context, bar: BarClosed) -> None:
        if bar.open_ms > self._round_ms:
            if self._arrived:
                self._decide_all(ctx)
            self._round_ms = bar.open_ms
            ctx.wake_in(BARRIER_S)
        elif bar.open_ms < self._round_ms or not self._arrived:
            return  # too late: its round was decided without it
        self._arrived.append(bar.symbol)
        if len(self._arrived) == len(self.readers):
            self._decide_all(ctx)
        else:
            ctx.defer()

    def _decide_all(self, ctx: Context) -> None:
        """Decide for every symbol whose bar came, in the plan's order."""
        arrived, self._arrived = self._arrived, []
        for symbol, reader in self.readers.items():
            if symbol in arrived:
                self._decide(ctx, symbol, reader, self._round_ms)

    # --- rules -------------------------------------------------------------------------------------

    def _decide(self, ctx: Context, symbol: str, reader: SignalReader, bar_ms: int) -> None:
        if reader.missing > 0:
            return
        mask, numbers = reader.read()
        ctx.note(measure_distance(numbers), symbol=symbol)
        if symbol == self._first:
            self._numbers = numbers
        # Most bars ask for nothing: the bit that would, and orders that are as they should be, tell.
        held, market = ctx.position(symbol).quantity, self._markets[symbol]
        asks = mask & (_ENTRIES if not held else EXIT_LONG if held > 0 else EXIT_SHORT)
        is_quiet = not asks and not market.leaving and market.reversal is None and mask & _BOTH != _BOTH
        if not (is_quiet and len(ctx.orders) == (self._resting if held else 0)):
            self._act(ctx, symbol, mask, numbers, bar_ms)

    def _act(self, ctx: Context, symbol: str, mask: int, numbers: dict[str, float], bar_ms: int) -> None:
        market = self._markets[symbol]
        held = ctx.position(symbol).quantity
        if mask & _BOTH == _BOTH:
            ctx.refuse("conflict", numbers, symbol)
            mask &= ~_ENTRIES
        if held:
            if not market.leaving and len(ctx.orders) != self._resting:
                self._protect(ctx, symbol, held, is_tidy=True)
            leaves, opposite = (EXIT_LONG, SHORT) if held > 0 else (EXIT_SHORT, LONG)
            if mask & leaves and not market.leaving:
                if mask & opposite:
                    market.reversal = self._plan_entry(ctx, symbol, opposite, numbers, bar_ms)
                self._leave(ctx, symbol, held, _word("exit", numbers), bar_ms)
            elif market.leaving:
                if bar_ms > market.bar_ms:
                    # The exit took longer than a bar: what it was to turn into is an old signal by now.
                    market.reversal = None
                self._leave(ctx, symbol, held, market.leaving, market.bar_ms)
            return
        if market.leaving or market.reversal is not None:
            self._follow(ctx, symbol)
        if mask & _ENTRIES:
            self._enter(ctx, symbol, mask & _ENTRIES, numbers, bar_ms)

    def _enter(self, ctx: Context, symbol: str, side: int, numbers: dict[str, float], bar_ms: int) -> None:
        orders = [order for order in ctx.orders if order.intent.symbol == symbol]
        if any(order.intent.role is Role.ENTRY for order in orders):
            ctx.refuse("open_order", numbers, symbol)
            return
        market = self._markets[symbol]
        if self._on_tick and market.entered_ms == bar_ms:
            return  # one entry a bar: a signal inside a bar holds on until its close
        market.entered_ms = bar_ms
        for order in orders:
            ctx.cancel(order)
        entry = self._plan_entry(ctx, symbol, side, numbers, bar_ms)
        if entry is not None:
            self._send_entry(ctx, symbol, entry)

    def _plan_entry(
        self, ctx: Context, symbol: str, side: int, numbers: dict[str, float], bar_ms: int
    ) -> Reversal | None:
        closes = self.readers[symbol].closes(self._window) if self._window else ()
        quantity = self.plan.size(ctx.account, ctx.instrument(symbol), numbers["close"], closes)
        if not quantity:
            ctx.refuse("below_minimum", numbers, symbol)
            return None
        word = "long" if side == LONG else "short"
        return Reversal(Side.BUY if side == LONG else Side.SELL, quantity, bar_ms, _word(word, numbers))

    def _send_entry(self, ctx: Context, symbol: str, entry: Reversal) -> None:
        ctx.submit(
            OrderIntent(
                symbol=symbol,
                side=entry.side,
                quantity=entry.quantity,
                role=Role.ENTRY,
                bar_ms=entry.bar_ms,
                why=entry.why,
            )
        )

    def _leave(self, ctx: Context, symbol: str, held: Decimal, why: str, bar_ms: int) -> None:
        """Close the position by MARKET, unless that is under way; what still opens is cancelled."""
        market = self._markets[symbol]
        market.leaving, market.bar_ms = why, bar_ms
        for order in ctx.orders:
            if order.intent.symbol != symbol:
                continue
            if order.intent.role is Role.EXIT:
                return
            if order.intent.role is Role.ENTRY:
                ctx.cancel(order)
        side = Side.SELL if held > 0 else Side.BUY
        ctx.submit(
            OrderIntent(
                symbol=symbol,
                side=side,
                quantity=_on_lot(ctx, symbol, held),
                reduce_only=True,
                role=Role.EXIT,
                bar_ms=bar_ms,
                why=why,
            )
        )

    def _follow(self, ctx: Context, symbol: str) -> None:
        """Bring resting orders, exit and reversal in line with the position."""
        market = self._markets[symbol]
        held = ctx.position(symbol).quantity
        if held:
            if not market.leaving:
                self._protect(ctx, symbol, held)
            return
        market.leaving = ""
        for order in ctx.orders:
            # A reduce-only limit ends with its position at the venue; a waiting stop does not.
            if order.intent.symbol == symbol and order.intent.role is Role.STOP:
                ctx.cancel(order)
        entry, market.reversal = market.reversal, None
        if entry is not None:
            self._send_entry(ctx, symbol, entry)

    # --- stop and target ---------------------------------------------------------------------------

    def _protect(self, ctx: Context, symbol: str, held: Decimal, *, is_tidy: bool = False) -> None:
        """Have stop and target rest for exactly what is held.

        Those of the position before end at the venue by themselves; `is_tidy` cancels what did not.
        """
        if not self._resting:
            return
        side = Side.SELL if held > 0 else Side.BUY
        wanted = self._prices(ctx, symbol, held, ctx.position(symbol).entry_price)
        for order in ctx.orders:
            intent = order.intent
            if intent.symbol != symbol or intent.role not in _RESTING or order.status in _GONE:
                continue
            if intent.side is not side and not is_tidy:
                continue
            price = intent.stop_price if intent.role is Role.STOP else intent.limit_price
            if wanted.get(intent.role) == price and order.remaining == abs(held):
                del wanted[intent.role]
            else:
                ctx.cancel(order)
        for role, price in wanted.items():
            is_stop = role is Role.STOP
            ctx.submit(
                OrderIntent(
                    symbol=symbol,
                    side=side,
                    quantity=_on_lot(ctx, symbol, held),
                    type=OrderType.STOP_MARKET if is_stop else OrderType.LIMIT,
                    stop_price=price if is_stop else None,
                    limit_price=None if is_stop else price,
                    time_in_force=None if is_stop else TimeInForce.GTC,
                    reduce_only=True,
                    role=role,
                    why=str(role),
                )
            )

    def _prices(self, ctx: Context, symbol: str, held: Decimal, entry: Decimal) -> dict[Role, Decimal]:
        """Return stop and target on the next tick toward the entry."""
        instrument, is_long = ctx.instrument(symbol), held > 0
        below, above = instrument.floor_price, instrument.ceil_price
        found = {}
        if self._stop is not None:
            found[Role.STOP] = (
                above(entry * (ONE - self._stop)) if is_long else below(entry * (ONE + self._stop))
            )
        if self._target is not None:
            found[Role.TARGET] = (
                below(entry * (ONE + self._target)) if is_long else above(entry * (ONE - self._target))
            )
        return {role: price for role, price in found.items() if price > ZERO}

    # --- state -------------------------------------------------------------------------------------

    def dump_state(self) -> dict[str, Any]:
        """Return everything remembered as plain data."""
        rings = {s: r.ring.dump() for s, r in self.readers.items() if isinstance(r, WindowReader)}
        return {
            "markets": msgspec.to_builtins(self._markets),
            "bars": rings,
            "round": [self._round_ms, self._arrived],
        }

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned."""
        self._markets = msgspec.convert(state["markets"], dict[str, MarketState], strict=False)
        self._round_ms, self._arrived = state["round"][0], list(state["round"][1])
        self._is_warm = False
        for symbol, rows in state["bars"].items():
            reader = self.readers[symbol]
            if isinstance(reader, WindowReader):
                reader.ring.load(rows)


def _on_lot(ctx: Context, symbol: str, held: Decimal) -> Decimal:
    """What is held without its sign, written the one way the lot is: equal orders have equal ids."""
    quantity = abs(held)
    written = quantity.quantize(ctx.instrument(symbol).lot_size)
    return written if written == quantity else quantity


def _decimal(fraction: float | None) -> Decimal | None:
    return None if fraction is None else Decimal(str(fraction))


def _word(word: str, numbers: Mapping[str, float]) -> str:
    shown = [f"{name} {value:,.10g}" for name, value in numbers.items() if name != "distance"]
    return f"{word}: {', '.join(shown)}"
