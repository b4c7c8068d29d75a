"""Trading fees."""

from decimal import ROUND_HALF_UP, Decimal

import msgspec

_FEE_STEP = Decimal("1E-8")


class MakerTakerFeeModel(msgspec.Struct, frozen=True):
    """Fee as a fraction of notional, by who rested; rebates are negative."""

    maker: Decimal = Decimal("0.0002")
    taker: Decimal = Decimal("0.0004")

    @property
    def maker_rate(self) -> float:
        """Fraction of notional paid by a resting order."""
        return float(self.maker)

    @property
    def taker_rate(self) -> float:
        """Fraction of notional paid by an order that takes."""
        return float(self.taker)

    def fee(self, value: Decimal, *, is_maker: bool) -> Decimal:
        """Return the fee on notional `value` (>= 0), to 8 decimals as the venue books it."""
        return (value * (self.maker if is_maker else self.taker)).quantize(_FEE_STEP, ROUND_HALF_UP)
