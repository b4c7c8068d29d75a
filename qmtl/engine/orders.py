"""The engine's orders: where each stands, moved only along the transition table."""

from decimal import Decimal

from qmtl.core.event import OrderFilled, OrderReport
from qmtl.core.order import (
    DONE,
    TRANSITIONS,
    Order,
    OrderIntent,
    OrderStatus,
    Role,
)
from qmtl.engine.state import FINISHED_KEPT, EngineState

_ACCEPTED = OrderStatus.ACCEPTED
_FILLED = OrderStatus.FILLED
_PARTIAL = OrderStatus.PARTIALLY_FILLED
_PENDING_CANCEL = OrderStatus.PENDING_CANCEL
_UNKNOWN = OrderStatus.UNKNOWN
_PROTECTION = Role.PROTECTION
_EARLY = frozenset({OrderStatus.INITIALIZED, OrderStatus.SUBMITTED, OrderStatus.UNKNOWN})
_EARLY_NEWS = frozenset({OrderStatus.ACCEPTED, OrderStatus.UNKNOWN})
_KEPT_MS = 120_000
"""Ended orders stay at least so long: a reconciliation asks again for the fills of the last minute."""


class Orders:
    """Working, protecting and ended orders over one EngineState."""

    def __init__(self, state: EngineState) -> None:
        """Look at the orders of `state`; nothing is copied."""
        self._state = state
        self._working = state.risk.working
        self._protections = state.protections
        self._finished = state.finished

    def add(self, order: Order) -> None:
        """Keep a new order."""
        book = self._protections if order.intent.role is _PROTECTION else self._working
        book[order.client_order_id] = order

    def find(self, client_order_id: str) -> Order | None:
        """Return an order, also one that ended lately, or None."""
        return (
            self._working.get(client_order_id)
            or self._protections.get(client_order_id)
            or self._finished.get(client_order_id)
        )

    def is_stale_news(self, order: Order, status: OrderStatus) -> bool:
        """Tell whether `status` repeats or is older than what is known: the ack that lost a race.

        A submit that timed out says "unsettled", when the stream may have told more already. An ack
        after a rejection is neither: the venue contradicts itself.
        """
        if status is _ACCEPTED and order.status is OrderStatus.REJECTED:
            return False
        return status is order.status or (status in _EARLY_NEWS and order.status not in _EARLY)

    def move(self, order: Order, status: OrderStatus, ts_ms: int, reason: str = "") -> bool:
        """Move `order` to `status`; False and no change where the table forbids it."""
        was = order.status
        if status not in TRANSITIONS[was]:
            return False
        order.status = status
        order.updated_ms = ts_ms
        if reason:
            order.reason = reason
        if status is _UNKNOWN or was is _UNKNOWN:
            self._block_or_free(order, reason)
        if status in DONE:
            self._finish(order)
        return True

    def _block_or_free(self, order: Order, reason: str) -> None:
        """Block the symbol of an order that became unknown, or free it when none of its orders is."""
        symbol, blocked = order.intent.symbol, self._state.risk.blocked
        if order.status is _UNKNOWN:
            blocked[symbol] = f"order {order.client_order_id} is unsettled: {reason}"
        elif not any(other.status is _UNKNOWN and other.intent.symbol == symbol for other in self.open()):
            blocked.pop(symbol, None)

    def fold_fill(self, order: Order, fill: OrderFilled, fee: Decimal, *, is_flat: bool) -> OrderStatus:
        """Add a fill's quantity, value and `fee` (settle currency); return the state to move to."""
        order.trade_ids.append(fill.trade_id)
        order.filled += fill.quantity
        order.filled_value += fill.quantity * fill.price
        order.fee += fee
        if fill.venue_order_id:
            order.venue_order_id = fill.venue_order_id
        # A closePosition order closes whatever is open, be it more or less than when it was written.
        if is_flat if order.intent.close_position else order.filled >= order.intent.quantity:
            return _FILLED
        if order.status is _PENDING_CANCEL or order.status in DONE:
            return order.status
        return _PARTIAL

    def open(self) -> list[Order]:
        """Return working and protecting orders."""
        return [*self._working.values(), *self._protections.values()]

    def adopt(self, report: OrderReport, ts_ms: int) -> Order:
        """Keep an order of ours that only the venue still knew."""
        role = Role.PROTECTION if report.close_position else Role.EXIT if report.reduce_only else Role.ENTRY
        intent = OrderIntent(
            symbol=report.symbol,
            side=report.side,
            quantity=report.quantity,
            type=report.type,
            limit_price=report.limit_price,
            stop_price=report.stop_price,
            reduce_only=report.reduce_only,
            close_position=report.close_position,
            position_side=report.position_side,
            role=role,
            why="adopted from the venue",
        )
        order = Order(
            client_order_id=report.client_order_id,
            intent=intent,
            ordinal=0,
            created_ms=ts_ms,
            updated_ms=ts_ms,
            status=report.status,
            venue_order_id=report.venue_order_id,
            filled=report.filled,
            filled_value=report.filled * report.average_price,
        )
        self.add(order)
        return order

    def _finish(self, order: Order) -> None:
        key = order.client_order_id
        self._working.pop(key, None)
        self._protections.pop(key, None)
        finished = self._finished
        finished[key] = order
        if len(finished) >= 2 * FINISHED_KEPT:
            # In batches: taking the first key of a dict again and again walks over what was deleted.
            keep_ms = self._state.risk.now_ms - _KEPT_MS * self._state.risk.speed
            for old in list(finished)[:FINISHED_KEPT]:
                if finished[old].updated_ms > keep_ms:
                    break
                del finished[old]
