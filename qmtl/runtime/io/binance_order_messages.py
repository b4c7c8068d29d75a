"""Binance USDT-M user-data frames about orders, plain and conditional, as events.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/user-data-streams. Every
parser takes the bare message and returns at least one message.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.event import Event, OrderAccepted, OrderCanceled, OrderExpired, OrderFilled, OrderRejected
from qmtl.core.money import ZERO
from qmtl.core.order import PositionSide, Side
from qmtl.runtime.io.binance_account_messages import Body, Refusal

_CHILDREN_KEPT = 4096


class TradeLite(msgspec.Struct, frozen=True):
    """A fill announced ahead of its ORDER_TRADE_UPDATE, without fee; the engine books the full one."""

    ts_ms: int
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    trade_id: str


class AlgoTriggered(msgspec.Struct, frozen=True):
    """A conditional order met its trigger; `child_id` is the order it placed, empty while on its way."""

    ts_ms: int
    client_order_id: str
    child_id: str = ""


class AlgoFinished(msgspec.Struct, frozen=True):
    """The child of a conditional order ended; the child's own updates say how."""

    ts_ms: int
    client_order_id: str


OrderMessage = Event | Refusal | TradeLite | AlgoTriggered | AlgoFinished
OrderMessages = tuple[OrderMessage, ...]


class AlgoChildren:
    """Which client id stands behind an order the venue placed for a triggered conditional order."""

    def __init__(self) -> None:
        self._client_ids: dict[str, str] = {}

    def remember(self, child_id: str, client_order_id: str) -> None:
        """Map the child; the oldest of several thousand is forgotten."""
        self._client_ids[child_id] = client_order_id
        if len(self._client_ids) > _CHILDREN_KEPT:
            del self._client_ids[next(iter(self._client_ids))]

    def resolve(self, order_id: str, client_order_id: str) -> str:
        """Return our client id for an order of the venue, else the one it carries."""
        return self._client_ids.get(order_id, client_order_id)


class _Order(
    msgspec.Struct,
    rename={
        "symbol": "s",
        "client_id": "c",
        "side": "S",
        "order_type": "o",
        "execution": "x",
        "status": "X",
        "order_id": "i",
        "last_quantity": "l",
        "last_price": "L",
        "fee": "n",
        "fee_asset": "N",
        "trade_id": "t",
        "is_maker": "m",
        "position_side": "ps",
        "expiry": "er",
    },
):
    symbol: str
    client_id: str
    side: Side
    order_type: str
    execution: str
    status: str
    order_id: int
    last_quantity: Decimal = ZERO
    last_price: Decimal = ZERO
    fee: Decimal | None = None
    fee_asset: str | None = None
    trade_id: int = 0
    is_maker: bool = False
    position_side: PositionSide = PositionSide.BOTH
    expiry: Any = None


class _OrderUpdate(msgspec.Struct, rename={"ts_ms": "T", "sent_ms": "E", "order": "o"}):
    order: _Order
    ts_ms: int = 0
    sent_ms: int = 0


class _Algo(
    msgspec.Struct,
    rename={"client_id": "caid", "algo_id": "aid", "status": "X", "child_id": "ai", "reason": "rm"},
):
    client_id: str
    algo_id: int
    status: str
    child_id: int | str = ""
    reason: str | None = None


class _AlgoUpdate(msgspec.Struct, rename={"ts_ms": "T", "order": "o"}):
    ts_ms: int
    order: _Algo


class _TradeLite(
    msgspec.Struct,
    rename={
        "ts_ms": "T",
        "symbol": "s",
        "client_id": "c",
        "side": "S",
        "order_id": "i",
        "quantity": "l",
        "price": "L",
        "trade_id": "t",
    },
):
    ts_ms: int
    symbol: str
    client_id: str
    side: Side
    order_id: int
    quantity: Decimal
    price: Decimal
    trade_id: int


class _TriggerReject(msgspec.Struct, rename={"order_id": "i", "reason": "r"}):
    order_id: int
    reason: str = ""


class _TriggerRejected(msgspec.Struct, rename={"ts_ms": "E", "order": "or"}):
    ts_ms: int
    order: _TriggerReject


def _decoder(kind: type) -> Callable[[Body], Any]:
    return msgspec.json.Decoder(kind, strict=False).decode


_decode_order = _decoder(_OrderUpdate)
_decode_algo, _decode_lite = _decoder(_AlgoUpdate), _decoder(_TradeLite)
_decode_trigger = _decoder(_TriggerRejected)


def parse_order_update(body: Body, children: AlgoChildren) -> OrderMessages:
    """Return what an ORDER_TRADE_UPDATE says; liquidation, ADL and settlement fills are fills like others."""
    m: _OrderUpdate = _decode_order(body)
    o, ts_ms = m.order, m.ts_ms or m.sent_ms
    venue_id = str(o.order_id)
    client_id = children.resolve(venue_id, o.client_id)
    if o.last_quantity and o.execution in {"TRADE", "CALCULATED"}:
        fill = OrderFilled(
            ts_ms,
            client_id,
            str(o.trade_id),
            o.symbol,
            o.side,
            o.last_quantity,
            o.last_price,
            o.fee or ZERO,
            o.fee_asset or "",
            o.is_maker,
            o.position_side,
            venue_id,
        )
        return (fill,)
    match o.execution, o.status:
        case _, "REJECTED":
            return (OrderRejected(ts_ms, client_id, str(o.expiry or "rejected")),)
        case "NEW", "NEW" | "PARTIALLY_FILLED":
            return (OrderAccepted(ts_ms, client_id, venue_id),)
        case "CANCELED", _:
            return (OrderCanceled(ts_ms, client_id, "", venue_id),)
        case "EXPIRED", _:
            return (OrderExpired(ts_ms, client_id, _expiry(o), venue_id),)
        case "CALCULATED", _:
            return (Refusal("ORDER_TRADE_UPDATE CALCULATED", "the venue closes a position; no fill yet"),)
        case "AMENDMENT", _:
            return (Refusal("ORDER_TRADE_UPDATE AMENDMENT", "this engine amends no order"),)
    return (Refusal(f"ORDER_TRADE_UPDATE {o.execution}/{o.status}", "the venue documents no such pair"),)


def _expiry(order: _Order) -> str:
    reason = "" if order.expiry in {None, "", "0", 0} else f"{order.expiry}"
    return "expired_in_match" if order.status == "EXPIRED_IN_MATCH" else reason


def parse_algo_update(body: Body, children: AlgoChildren) -> OrderMessages:
    """Return what an ALGO_UPDATE says, and remember the child of a triggered conditional order."""
    m: _AlgoUpdate = _decode_algo(body)
    o = m.order
    venue_id, reason = str(o.algo_id), o.reason or ""
    child_id = str(o.child_id) if o.child_id not in {"", 0, "0"} else ""
    if child_id:
        children.remember(child_id, o.client_id)
    match o.status:
        case "NEW":
            return (OrderAccepted(m.ts_ms, o.client_id, venue_id),)
        case "TRIGGERING" | "TRIGGERED":
            return (AlgoTriggered(m.ts_ms, o.client_id, child_id),)
        case "FINISHED":
            return (AlgoFinished(m.ts_ms, o.client_id),)
        case "CANCELED":
            return (OrderCanceled(m.ts_ms, o.client_id, reason, venue_id),)
        case "EXPIRED":
            return (OrderExpired(m.ts_ms, o.client_id, reason, venue_id),)
        case "REJECTED":
            return (OrderRejected(m.ts_ms, o.client_id, reason or "rejected"),)
    return (Refusal(f"ALGO_UPDATE {o.status}", "the venue documents no such status"),)


def parse_trade_lite(body: Body, children: AlgoChildren) -> OrderMessages:
    """Return the early notice of a fill."""
    m: _TradeLite = _decode_lite(body)
    client_id = children.resolve(str(m.order_id), m.client_id)
    return (TradeLite(m.ts_ms, client_id, m.symbol, m.side, m.quantity, m.price, str(m.trade_id)),)


def _parse_trigger_reject(body: Body, children: AlgoChildren) -> OrderMessages:
    m: _TriggerRejected = _decode_trigger(body)
    client_id = children.resolve(str(m.order.order_id), "")
    if client_id:
        return (OrderRejected(m.ts_ms, client_id, m.order.reason),)
    why = f"order {m.order.order_id} is not a child of ours: {m.order.reason}"
    return (Refusal("CONDITIONAL_ORDER_TRIGGER_REJECT", why),)


ORDER_PARSERS: dict[bytes, Callable[[Body, AlgoChildren], OrderMessages]] = {
    b"ORDER_TRADE_UPDATE": parse_order_update,
    b"ALGO_UPDATE": parse_algo_update,
    b"TRADE_LITE": parse_trade_lite,
    b"CONDITIONAL_ORDER_TRIGGER_REJECT": _parse_trigger_reject,
}
