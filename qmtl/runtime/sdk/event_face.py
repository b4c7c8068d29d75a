"""The event face on the engine's strategy port: `on_bar`, `on_tick`, `on_fill`, `on_order`, `on_timer`."""

from collections.abc import Mapping
from typing import Any

from qmtl.core.event import BarClosed, OrderFilled, PriceUpdated
from qmtl.core.order import Order
from qmtl.engine.strategy import Context, SilentStrategy
from qmtl.runtime.sdk.author_context import AuthorContext, Fill, Tick, view_order
from qmtl.runtime.sdk.bar_ring import BarRing
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.strategy import Strategy
from qmtl.runtime.sdk.trade_plan import TradePlan

_PLAIN = (str, int, float, bool, type(None))


class EventFace(SilentStrategy):
    """Calls one strategy with floats; what it says passes on as decimals."""

    name = "events"

    def __init__(self, strategy: Strategy, plan: TradePlan) -> None:
        self.strategy = strategy
        self.plan = plan
        self.name = type(strategy).__name__
        self.warmup = strategy.warmup or 0
        self._window = plan.volatility_window + 1 if plan.volatility_target is not None else 0
        self.lookback = keep = max(strategy.lookback, self.warmup, self._window)
        self._rings = {s: BarRing(keep, symbol=s, interval=plan.interval) for s in plan.markets}
        self._state: dict[str, Any] = {}
        self._author = AuthorContext(plan, self._rings, self._closes, self._state)
        self._bar_ms = 0
        self._wants_tick = type(strategy).on_tick is not Strategy.on_tick

    def _closes(self, symbol: str) -> Any:
        return self._rings[symbol].last(self._window).close.tolist() if self._window else ()

    @property
    def is_warm(self) -> bool:
        """Tell whether the next bar is passed on."""
        return self._has(self.warmup - 1)

    def _has(self, count: int) -> bool:
        return all(len(ring) >= count for ring in self._rings.values())

    # --- the engine's calls ------------------------------------------------------------------------

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Keep the bar; call the strategy with what is live and warm."""
        ring = self._rings.get(bar.symbol)
        if ring is None:
            return
        ring.push(bar)
        self._bar_ms = bar.open_ms
        if not (bar.refilled or bar.warmup) and self._has(self.warmup):
            self.strategy.on_bar(self._face(ctx), bar)

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Call `on_tick`, where the strategy has it."""
        if self._wants_tick and update.symbol in self._rings and self._has(self.warmup):
            self._bar_ms = update.open_ms
            tick = Tick(
                update.symbol,
                update.ts_ms,
                update.open_ms,
                update.close,
                update.open,
                update.high,
                update.low,
                update.volume,
            )
            self.strategy.on_tick(self._face(ctx), tick)

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Call `on_fill`."""
        told = Fill(
            fill.symbol,
            fill.ts_ms,
            str(fill.side),
            float(fill.quantity),
            float(fill.price),
            float(fill.fee),
            fill.is_maker,
            order.intent.why,
            order.client_order_id,
        )
        self.strategy.on_fill(self._face(ctx), told)

    def on_order(self, ctx: Context, order: Order) -> None:
        """Call `on_order`."""
        self.strategy.on_order(self._face(ctx), view_order(order))

    def on_timer(self, ctx: Context) -> None:
        """Call `on_timer`."""
        self.strategy.on_timer(self._face(ctx))

    def _face(self, ctx: Context) -> AuthorContext:
        self._author.enter(ctx, self._bar_ms)
        return self._author

    # --- state -------------------------------------------------------------------------------------

    def dump_state(self) -> dict[str, Any]:
        """Return `ctx.state` and the kept bars; StrategyError names a key that is no plain data."""
        _check_plain(self._state, "ctx.state")
        bars = {symbol: ring.dump() for symbol, ring in self._rings.items()}
        return {"state": self._state, "bars": bars, "bar_ms": self._bar_ms}

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned."""
        self._state.clear()
        self._state.update(state["state"])
        self._bar_ms = state["bar_ms"]
        for symbol, rows in state["bars"].items():
            self._rings[symbol].load(rows)


def _check_plain(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, below in value.items():
            if not isinstance(key, str):
                raise StrategyError(f"{where}: keys are text, found {key!r}")
            _check_plain(below, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple):
        for number, below in enumerate(value):
            _check_plain(below, f"{where}[{number}]")
    elif not isinstance(value, _PLAIN):
        raise StrategyError(f"{where}: expected plain data, found {type(value).__name__}")
