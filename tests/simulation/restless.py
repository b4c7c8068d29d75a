"""A strategy that is in and out of the market all the time: food for kill campaigns."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from qmtl.core.event import PriceUpdated
from qmtl.core.order import OrderIntent, OrderType, Role, Side, TimeInForce
from qmtl.engine.strategy import Context, SilentStrategy

QUANTITY = Decimal("0.010")


class Restless(SilentStrategy):
    """Enters when flat, leaves when not, by turns at market and by a limit that may rest a while."""

    name = "restless"
    warmup = 0

    def __init__(self) -> None:
        self._turn = 0

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Restless":
        del params
        return cls()

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """One order at a time; a resting one is cancelled at the next price but one."""
        if ctx.orders:
            self._turn += 1
            if self._turn % 2 == 0:
                for order in ctx.orders:
                    ctx.cancel(order)
            return
        self._turn += 1
        held = ctx.position(update.symbol).quantity
        side = Side.SELL if held > 0 or (not held and self._turn % 3 == 0) else Side.BUY
        price = Decimal(str(update.close))
        is_limit = self._turn % 4 == 0
        instrument = ctx.instrument(update.symbol)
        ctx.submit(
            OrderIntent(
                symbol=update.symbol,
                side=side,
                quantity=abs(held) or QUANTITY,
                type=OrderType.LIMIT if is_limit else OrderType.MARKET,
                limit_price=instrument.floor_price(price) if is_limit else None,
                time_in_force=TimeInForce.GTC if is_limit else None,
                reduce_only=bool(held),
                role=Role.EXIT if held else Role.ENTRY,
                bar_ms=update.open_ms,
            )
        )

    def dump_state(self) -> int:
        """The turn."""
        return self._turn

    def load_state(self, state: Any) -> None:
        """The turn."""
        self._turn = state
