"""One normal form of every order that leaves the process, and the id it leaves under."""

import hashlib
import re
from collections.abc import Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any

from qmtl.core.money import ZERO, dump_decimal, parse_decimal
from qmtl.core.order import OrderIntent, OrderValidationError, PositionSide, Side, TimeInForce

CLIENT_ORDER_ID = re.compile(r"^[A-Za-z0-9_-]{1,36}\Z")
CLIENT_ORDER_PREFIX = "q"
_BASE32 = bytes.maketrans(bytes(range(32)), b"abcdefghijklmnopqrstuvwxyz234567")
_DIGEST_BYTES, _ID_DIGITS = 16, 26


def _halvings(digits: int) -> list[tuple[int, int, int]]:
    """Return (shift, low mask, high mask) of the steps that part packed 5-bit digits into bytes."""
    steps = []
    half = digits // 2
    while half:
        part, lane = 5 * half, 16 * half
        low = sum(((1 << part) - 1) << lane * number for number in range(digits // (2 * half)))
        steps.append((8 * half - part, low, low << part))
        half //= 2
    return steps


_HALVINGS = _halvings(32)
_NO_PRICES = "None\x1fNone\x1fNone"

_ALIASES = {
    "amount": "quantity",
    "price": "limit_price",
    "tif": "time_in_force",
    "reduceOnly": "reduce_only",
    "positionSide": "position_side",
    "clientOrderId": "client_order_id",
    "newClientOrderId": "client_order_id",
}
_INTERNAL = ("venue", "hedge_mode", "leg", "reduce_intent", "world_id", "strategy_id")
_NEEDS_LIMIT = {"limit", "stop_limit"}
_NEEDS_STOP = {"stop", "stop_limit"}
_TYPES = {"market", "limit", "stop", "stop_limit"}


@lru_cache(maxsize=256)
def _begin(epoch: str, world: str, strategy: str) -> "hashlib.blake2b":
    """Return the hash of what the intents of one session share; copied, it costs less than a new one."""
    return hashlib.blake2b(f"{epoch}\x1f{world}\x1f{strategy}\x1f".encode(), digest_size=_DIGEST_BYTES)


def mint_client_order_id(epoch: str, world: str, strategy: str, ordinal: int, intent: OrderIntent) -> str:
    """Return the id of one intent: `q` and 26 characters of base32 BLAKE2b-128 over what makes it unique.

    The epoch is random per journal opening and the ordinal counts a strategy's intents, so a restored
    backup never mints an old id again and two equal intents are two orders.
    """
    prices = _NO_PRICES
    limit, stop, tif = intent.limit_price, intent.stop_price, intent.time_in_force
    if limit is not None or stop is not None or tif is not None:
        prices = f"{limit}\x1f{stop}\x1f{tif}"
    # Joined, not formatted: formatting an enum member costs as much as the hash.
    text = "\x1f".join(
        (
            intent.symbol,
            str(ordinal),
            intent.side,
            intent.type,
            str(intent.quantity),
            prices,
            intent.position_side,
            "1" if intent.reduce_only else "0",
            str(intent.bar_ms),
        )
    )
    hashed = _begin(epoch, world, strategy).copy()
    hashed.update(text.encode())
    # All digits at once, in five steps: the standard library's base32 encoder costs six times the hash, and
    # tables of digit pairs fall out of the processor's cache between two orders.
    packed = int.from_bytes(hashed.digest()) << 32
    for shift, low, high in _HALVINGS:
        packed = packed & low | (packed & high) << shift
    digits = packed.to_bytes(32).translate(_BASE32)
    return CLIENT_ORDER_PREFIX + digits[:_ID_DIGITS].decode()


def to_broker_order(
    order: Mapping[str, Any], *, venue: str | None = None, hedge_mode: bool | None = None
) -> dict[str, Any]:
    """Return `order` with canonical field names and checked values; applying it twice changes nothing.

    Quantities and prices stay plain numbers; negative quantity is allowed with SELL and becomes
    positive. Unknown fields are kept. Raises OrderValidationError naming the field.
    """
    result = _rename(order)
    _check_context(result, "venue", venue)
    _check_context(result, "hedge_mode", hedge_mode)
    for name in _INTERNAL:
        result.pop(name, None)
    _normalise_symbol_and_side(result)
    _normalise_quantity(result)
    _normalise_type(result)
    _normalise_flags(result)
    cid = result.get("client_order_id")
    if cid is not None and not (isinstance(cid, str) and CLIENT_ORDER_ID.match(cid)):
        _fail("client_order_id", f"expected 1 to 36 of A-Z a-z 0-9 _ -, got {cid!r}")
    return result


def _fail(field: str, text: str) -> None:
    message = f"{field}: {text}"
    raise OrderValidationError(message)


def _number(value: object, field: str) -> Decimal:
    try:
        return parse_decimal(value, field)
    except ValueError as error:
        raise OrderValidationError(str(error)) from None


def _rename(order: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in order.items():
        if value is None:
            continue
        name = _ALIASES.get(key, key)
        if name in result and result[name] != value:
            _fail(name, f"given twice with different values: {result[name]!r} and {value!r}")
        result[name] = value
    return result


def _check_context(order: Mapping[str, Any], field: str, expected: object) -> None:
    if expected is not None and field in order and order[field] != expected:
        _fail(field, f"the order says {order[field]!r}, this client is {expected!r}")


def _normalise_symbol_and_side(order: dict[str, Any]) -> None:
    if not isinstance(order.get("symbol"), str) or not order["symbol"].strip():
        _fail("symbol", "is missing")
    side = order.get("side")
    if not isinstance(side, str) or side.upper() not in Side.__members__:
        _fail("side", f"expected BUY or SELL, got {side!r}")
    order["side"] = str(side).upper()


def _normalise_quantity(order: dict[str, Any]) -> None:
    if "quantity" not in order:
        _fail("quantity", "is missing")
    number = _number(order["quantity"], "quantity")
    if number == ZERO:
        _fail("quantity", "must not be 0")
    if number < ZERO:
        if order["side"] != Side.SELL:
            _fail("quantity", f"negative ({order['quantity']!r}) is only allowed with SELL")
        order["quantity"] = (
            -order["quantity"] if not isinstance(order["quantity"], str) else dump_decimal(-number)
        )


def _normalise_type(order: dict[str, Any]) -> None:
    kind = order.get("type", "limit" if "limit_price" in order else "market")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        _fail("type", f"expected one of {', '.join(sorted(_TYPES))}, got {kind!r}")
    kind = order["type"] = str(kind).lower()
    for field, needing in (("limit_price", _NEEDS_LIMIT), ("stop_price", _NEEDS_STOP)):
        if kind in needing and field not in order:
            _fail(field, f"is required by type {kind}")
        if field in order and _number(order[field], field) <= ZERO:
            _fail(field, f"must be greater than 0, got {order[field]!r}")
    if kind == "market":
        order.pop("limit_price", None)
    tif = order.get("time_in_force")
    if tif is not None:
        if not isinstance(tif, str) or tif.upper() not in TimeInForce.__members__:
            _fail("time_in_force", f"expected one of {', '.join(TimeInForce)}, got {tif!r}")
        order["time_in_force"] = str(tif).upper()
        if order["time_in_force"] == TimeInForce.GTD and "expire_at" not in order:
            _fail("expire_at", "is required by time_in_force GTD (seconds)")


def _normalise_flags(order: dict[str, Any]) -> None:
    reduce_only = order.get("reduce_only")
    if reduce_only is not None and not isinstance(reduce_only, bool):
        _fail("reduce_only", f"expected true or false, got {reduce_only!r}")
    if reduce_only is False:
        del order["reduce_only"]
    side = order.get("position_side")
    if side is not None:
        if not isinstance(side, str) or side.upper() not in PositionSide.__members__:
            _fail("position_side", f"expected LONG, SHORT or BOTH, got {side!r}")
        order["position_side"] = str(side).upper()
    leverage = order.get("leverage")
    if leverage is not None:
        number = _number(leverage, "leverage")
        if number != number.to_integral_value() or number < 1:
            _fail("leverage", f"expected a whole number of at least 1, got {leverage!r}")
        order["leverage"] = int(number)
