"""The Bollinger rules in close form: what the benchmarks and the compiled kernel compute too.

Bands and the two past closes end at bar t−1; entry, stop, target and re-entry are judged and sent as
MARKET at close t: no offset, no cool-down, no volatility gate. At most one order a bar: after an exit the
next entry is judged at the next close.
"""

from collections.abc import Mapping
from decimal import Decimal
from math import inf
from typing import Any

import msgspec

from qmtl.core.event import BarClosed, OrderFilled
from qmtl.core.indicator import RollingMoments
from qmtl.core.interval import parse_interval
from qmtl.core.order import Order, OrderIntent, Role, Side
from qmtl.engine.strategy import Context, SilentStrategy


class CloseFormParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Constants of the close form; `stop` and `target` are fractions of the entry fill."""

    symbol: str = "BTCUSDT"
    interval: str = "1m"
    window: int = 20
    inner: float = 1.0
    outer: float = 2.0
    stop: float = 0.0011
    target: float = 0.0016
    quantity: Decimal = Decimal(1)


class CloseForm(SilentStrategy):
    """The published rules on closes alone; position and entry come from fills."""

    name = "bollinger_close_form"

    def __init__(self, params: CloseFormParams | None = None) -> None:
        self.params = params = params or CloseFormParams()
        self._moments = RollingMoments(params.window)
        self._interval_ms = parse_interval(params.interval)
        self._inner, self._outer = params.inner, params.outer
        # Bands of the last closed bar: upper inner and outer, lower inner and outer. Infinite until the
        # window is full, so that no close is beyond them.
        self._levels = (inf, inf, -inf, -inf)
        # Whether the last two closes were beyond their own inner bands, and the last beyond the outer ones.
        self._above = self._above_before = self._below = self._below_before = False
        self._is_over = self._is_under = False
        self._held = 0
        self._stop = self._target = 0.0

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "CloseForm":
        """Build from plain data; msgspec.ValidationError names what is wrong."""
        return cls(msgspec.convert(dict(params), CloseFormParams, strict=False))

    @property
    def is_warm(self) -> bool:
        """Tell whether the bands exist."""
        return self._moments.is_full

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Decide at the close against the bands of the bar before, then fold the close into them."""
        close = bar.close
        upper, over, lower, under = self._levels
        is_above, is_below = close > upper, close < lower
        if not (bar.warmup or bar.refilled):
            held = self._held
            if held:
                why = self._find_exit(held, close, over, under)
                if why:
                    self._send(ctx, Side.SELL if held > 0 else Side.BUY, Role.EXIT, why)
            elif is_above and not (self._above or self._above_before):
                self._send(ctx, Side.BUY, Role.ENTRY, "above upper band")
            elif is_below and not (self._below or self._below_before):
                self._send(ctx, Side.SELL, Role.ENTRY, "below lower band")
            ctx.note({"close": close, "upperInter": upper, "lowerInter": lower})
        moments = self._moments
        moments.push(bar.open_ms // self._interval_ms, close)
        if moments.is_full:
            self._above_before, self._below_before = self._above, self._below
            mean, std = moments.mean, moments.std
            near, far = self._inner * std, self._outer * std
            self._levels = upper, over, lower, under = mean + near, mean + far, mean - near, mean - far
            self._above, self._below = close > upper, close < lower
            self._is_over, self._is_under = close > over, close < under

    def _find_exit(self, held: int, close: float, over: float, under: float) -> str:
        if held > 0:
            if close <= self._stop:
                return "stop"
            if close >= self._target:
                return "target"
            return "re-entry" if self._is_over and close <= over else ""
        if close >= self._stop:
            return "stop"
        if close <= self._target:
            return "target"
        return "re-entry" if self._is_under and close >= under else ""

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Read position and entry anew."""
        position = ctx.position(self.params.symbol)
        self._held = held = (position.quantity > 0) - (position.quantity < 0)
        entry, params = float(position.entry_price), self.params
        self._stop, self._target = entry * (1.0 - held * params.stop), entry * (1.0 + held * params.target)

    def _send(self, ctx: Context, side: Side, role: Role, why: str) -> None:
        params = self.params
        is_exit = role is Role.EXIT
        quantity = abs(ctx.position(params.symbol).quantity) if is_exit else params.quantity
        ctx.submit(
            OrderIntent(
                symbol=params.symbol, side=side, quantity=quantity, reduce_only=is_exit, role=role, why=why
            )
        )

    def dump_state(self) -> dict[str, Any]:
        """Return everything remembered as plain data."""
        return {
            "moments": self._moments.dump(),
            "levels": list(self._levels) if self.is_warm else None,
            "past": [self._above, self._above_before, self._below, self._below_before],
            "outside": [self._is_over, self._is_under],
            "position": [self._held, self._stop, self._target],
        }

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned."""
        self._moments.load(state["moments"])
        upper, over, lower, under = state["levels"] or (inf, inf, -inf, -inf)
        self._levels = (upper, over, lower, under)
        self._above, self._above_before, self._below, self._below_before = state["past"]
        self._is_over, self._is_under = state["outside"]
        self._held, self._stop, self._target = state["position"]
