"""Nodes whose result the Runner treats as an order."""

from collections.abc import Mapping
from typing import Any

from qmtl.core.order import OrderValidationError
from qmtl.runtime.sdk.nodes.base import Node, View
from qmtl.runtime.sdk.nodes.processing import ProcessingNode

_FORWARDED = {
    "symbol": ("symbol",),
    "type": ("type",),
    "limit_price": ("limit_price", "price"),
    "stop_price": ("stop_price",),
    "stop_loss": ("stop_loss",),
    "take_profit": ("take_profit",),
    "time_in_force": ("time_in_force", "tif"),
    "reduce_only": ("reduce_only",),
    "position_side": ("position_side",),
    "leverage": ("leverage",),
    "client_order_id": ("client_order_id", "newClientOrderId"),
}
_FORWARDS = tuple((name, key) for name, keys in _FORWARDED.items() for key in keys)
_READ = frozenset(key for _, key in _FORWARDS)


class TradeOrderPublisherNode(ProcessingNode):
    """Turns a trade signal into an order payload `{side, quantity, timestamp, …}`.

    A signal is a mapping with `action` BUY or SELL and `size` in base units; any other action is no order.
    Order fields of the signal are forwarded, nothing is added. OrderValidationError without `size`.
    """

    def __init__(self, signal: Node, *, name: str | None = None) -> None:
        super().__init__(signal, name=name or "trade_orders", interval=signal.interval, period=1)
        self.compute_fn = self._publish
        self._signal = self.edges[0]

    def _publish(self, view: View) -> dict[str, Any] | None:
        edge = self._signal
        ts, signal = edge[edge.interval][-1]
        if not isinstance(signal, Mapping):
            return None
        action = signal.get("action")
        side = action.upper() if isinstance(action, str) else ""
        if side not in {"BUY", "SELL"}:
            return None
        size = signal.get("size")
        if size is None:
            raise OrderValidationError(f"size: is missing from the signal of {edge.source.node_id}")
        order: dict[str, Any] = {"side": side, "quantity": size, "timestamp": ts}
        if not _READ.isdisjoint(signal):
            for name, key in _FORWARDS:
                value = signal.get(key)
                if value is not None and name not in order:
                    order[name] = value
        return order
