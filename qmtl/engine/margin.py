"""Margin: leverage brackets, what positions need, and where they are liquidated."""

from decimal import Decimal
from typing import Literal

import msgspec

MarginMode = Literal["isolated", "cross", "cash", "none"]
"""isolated and cross as Binance USDT-M; cash is spot (no borrowing); none checks nothing."""


class LeverageBracket(msgspec.Struct, frozen=True):
    """One step of a ladder: positions worth up to `cap` quote units, their leverage and maintenance.

    Maintenance margin = notional x `rate` - `deduction` (Binance: maintAmount, cum).
    """

    cap: Decimal
    max_leverage: int
    rate: Decimal
    deduction: Decimal
