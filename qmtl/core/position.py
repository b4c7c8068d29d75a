"""Positions, folded from fills."""

from decimal import ROUND_HALF_EVEN, Decimal

import msgspec

from qmtl.core.money import CENT_OF_SATOSHI, ZERO
from qmtl.core.order import PositionSide, Side

_BUY = Side.BUY


class Position(msgspec.Struct):
    """One position: signed quantity (base) and signed cost (quote), short is negative.

    `cost` is quantity x average entry. It is kept instead of the average because a sum of exact
    decimals stays exact and a quotient does not: the conservation check depends on it.
    """

    symbol: str
    side: PositionSide = PositionSide.BOTH
    quantity: Decimal = ZERO
    cost: Decimal = ZERO
    opened_ms: int = 0

    @property
    def is_flat(self) -> bool:
        """Tell whether nothing is held."""
        return not self.quantity

    @property
    def entry_price(self) -> Decimal:
        """Average entry in quote units, zero when flat."""
        return self.cost / self.quantity if self.quantity else ZERO

    def unrealized(self, mark: Decimal) -> Decimal:
        """Profit in quote units if closed at `mark`."""
        return self.quantity * mark - self.cost

    def fold(self, side: Side, quantity: Decimal, price: Decimal, ts_ms: int) -> Decimal:
        """Apply one fill and return the profit it realised in quote units, before fees."""
        signed = quantity if side is _BUY else -quantity
        held = self.quantity
        rest = held + signed
        if not held or (rest and (held > 0) == (signed > 0)):
            if not held:
                self.opened_ms = ts_ms
            self.quantity = rest
            self.cost += signed * price
            return ZERO
        if not rest or abs(signed) > abs(held):
            realized = held * price - self.cost
            self.quantity = rest
            self.cost = rest * price
            self.opened_ms = ts_ms if rest else 0
            return realized
        # Libraries change the thread's rounding (ccxt does); a replay must book the same share.
        share = (self.cost * -signed / held).quantize(CENT_OF_SATOSHI, ROUND_HALF_EVEN)
        self.quantity = rest
        self.cost -= share
        return -signed * price - share
