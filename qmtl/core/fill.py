"""A fill as a broker or a simulated account states it."""

from decimal import Decimal

import msgspec

from qmtl.core.money import ZERO
from qmtl.core.order import Side


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """One trade: `quantity` base units at `price`; `fee` in `fee_asset`, negative for a rebate."""

    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal = ZERO
    fee_asset: str = ""
    is_maker: bool = False
    ts_ms: int = 0
    trade_id: str = ""
    order_id: str = ""
    client_order_id: str = ""
