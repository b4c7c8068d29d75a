"""Risk limits."""

from decimal import Decimal

import msgspec


class RiskLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What an account may do; None means no limit.

    Notionals, position and daily loss are in the settle currency; `price_band` is the largest distance of
    a limit price from the mark and `max_drawdown` the largest fall from the equity peak, as fractions;
    `max_position` is the largest |position| notional.
    """

    max_order_notional: Decimal | None = None
    max_position: Decimal | None = None
    max_open_orders: int | None = None
    orders_per_minute: int | None = None
    price_band: Decimal | None = None
    max_daily_loss: Decimal | None = None
    max_drawdown: Decimal | None = None
