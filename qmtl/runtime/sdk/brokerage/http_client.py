"""The broker client of an HTTP order API."""

from typing import Any

from qmtl.core.order_payload import to_broker_order
from qmtl.runtime.sdk.brokerage.client import OrderLike
from qmtl.runtime.sdk.brokerage.order_road import CONTEXT_FIELDS
from qmtl.runtime.sdk.brokerage.trade_execution_service import TradeExecutionService


class HttpBrokerageClient(TradeExecutionService):
    """TradeExecutionService for whole orders: symbol, side and quantity are required."""

    def _normalise(self, order: OrderLike) -> dict[str, Any]:
        return to_broker_order({name: value for name, value in order.items() if name not in CONTEXT_FIELDS})
