"""A strategy that buys once and holds: positions for funding, liquidation and hedges to befall."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from qmtl.core.event import PriceUpdated
from qmtl.core.order import OrderIntent, PositionSide, Role, Side
from qmtl.engine.strategy import Context, SilentStrategy

_OPENS = {PositionSide.BOTH: Side.BUY, PositionSide.LONG: Side.BUY, PositionSide.SHORT: Side.SELL}


class Holder(SilentStrategy):
    """Opens `quantity` on each of `sides`, `BOTH` or `LONG,SHORT`, at the first price it may."""

    name = "holder"
    warmup = 0

    def __init__(self, quantity: Decimal, sides: tuple[PositionSide, ...]) -> None:
        self._quantity = quantity
        self._left = list(sides)

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Holder":
        sides = tuple(PositionSide(name) for name in str(params["sides"]).split(","))
        return cls(Decimal(str(params["quantity"])), sides)

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Open what is left; a refused intent is tried again at the next price."""
        for side in tuple(self._left):
            intent = OrderIntent(
                symbol=update.symbol,
                side=_OPENS[side],
                quantity=self._quantity,
                position_side=side,
                role=Role.ENTRY,
            )
            if ctx.submit(intent) is not None:
                self._left.remove(side)

    def dump_state(self) -> list[str]:
        """The sides still to open."""
        return [side.value for side in self._left]

    def load_state(self, state: Any) -> None:
        """The sides still to open."""
        self._left = [PositionSide(name) for name in state]
