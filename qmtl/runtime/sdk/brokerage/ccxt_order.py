"""A broker order as ccxt's `create_order` takes it, and ccxt's answers and errors as ours."""

import re
import socket
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.account import Balance
from qmtl.core.fill import Fill
from qmtl.core.money import ONE, ZERO, parse_decimal
from qmtl.core.order import OrderValidationError, PositionSide, Side, TimeInForce
from qmtl.core.position import Position
from qmtl.engine.intents import symbol_key
from qmtl.runtime.sdk.brokerage.ccxt_market import contract_size
from qmtl.runtime.sdk.brokerage.result import OrderResult
from qmtl.runtime.sdk.brokerage.send_policy import (
    NOT_TAKEN_STATUSES,
    Outcome,
    Verdict,
    classify_error,
    classify_status,
)

_BINANCE_STOPS = {"stop": "STOP_MARKET", "stop_limit": "STOP"}
_STOPS = {"stop": "market", "stop_limit": "limit"}
_AT_EVERY_VENUE = frozenset({TimeInForce.GTC, TimeInForce.IOC, TimeInForce.FOK})
_ALREADY_SO = re.compile(r"-(4046|4059)\b")
_DUPLICATE = re.compile(r"duplicate", re.IGNORECASE)
_FAMILY = "ExchangeError"


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where an order goes: the market's ccxt name and size, and what is special about its venue.

    `features` is ccxt's table of what `create_order` can do there, empty when unknown.
    """

    symbol: str
    is_contract: bool = False
    is_binance: bool = False
    contract_size: Decimal = ONE
    features: Mapping[str, Any] = {}

    @property
    def is_binance_contract(self) -> bool:
        """Tell whether Binance's contract rules hold: algo orders, GTX, goodTillDate."""
        return self.is_binance and self.is_contract


CcxtCall = tuple[str, str, str, Any, Any, dict[str, Any]]


def dump_call(order: Mapping[str, Any], place: Place) -> CcxtCall:
    """Return the positional arguments of `create_order`; OrderValidationError for what is not native."""
    kind = order["type"]
    stops = _BINANCE_STOPS if place.is_binance_contract else _STOPS
    price = order["limit_price"] if kind in {"limit", "stop_limit"} else None
    extra = order.get("params", {})
    if not isinstance(extra, Mapping):
        raise OrderValidationError(f"params: expected a mapping for ccxt, got {extra!r}")
    params: dict[str, Any] = {**extra, "clientOrderId": order["client_order_id"]}
    if place.is_binance:
        params["newClientOrderId"] = order["client_order_id"]
    if kind in stops:
        params["triggerPrice"] = order["stop_price"]
    if "time_in_force" in order and price is not None:
        params |= _dump_time_in_force(order, place)
    params |= _dump_position(order, place)
    params |= _dump_brackets(order, place)
    amount = _plain(order["quantity"], place.contract_size)
    return place.symbol, stops.get(kind, kind), order["side"].lower(), amount, _plain(price), params


def _plain(value: Any, size: Decimal = ONE) -> Any:
    if value is None or (size == ONE and isinstance(value, int | float)):
        return value
    return float(parse_decimal(value, "quantity") / size)


def _dump_time_in_force(order: Mapping[str, Any], place: Place) -> dict[str, Any]:
    tif = TimeInForce(order["time_in_force"])
    known = place.features.get("timeInForce")
    if tif is TimeInForce.GTX:
        if place.is_binance_contract:
            return {"timeInForce": "GTX"}
        if known is None or known.get("PO"):
            return {"postOnly": True}
    elif tif is TimeInForce.GTD:
        if place.is_binance_contract:
            return {"timeInForce": "GTD", "goodTillDate": int(float(order["expire_at"])) * 1000}
    elif tif in _AT_EVERY_VENUE and (tif is TimeInForce.GTC or known is None or known.get(tif.value)):
        return {"timeInForce": tif.value}
    raise OrderValidationError(f"time_in_force: {tif.value} is not native to {place.symbol} at this venue")


def _dump_position(order: Mapping[str, Any], place: Place) -> dict[str, Any]:
    side, reduces = order.get("position_side"), bool(order.get("reduce_only"))
    if not place.is_contract:
        if side in {"LONG", "SHORT"}:
            raise OrderValidationError(f"position_side: {side} has no meaning for spot")
        if reduces and order["side"] == Side.BUY:
            raise OrderValidationError("reduce_only: a spot purchase never reduces")
        return {}
    params: dict[str, Any] = {} if side is None else {"positionSide": side}
    # In hedge mode the position side says that it closes, and Binance refuses reduceOnly (-1106).
    # Nor does it take it beside closePosition.
    closes = bool(order.get("params", {}).get("closePosition")) or is_hedge_close(order)
    if reduces and not (place.is_binance and closes):
        params["reduceOnly"] = True
    return params


def is_hedge_close(order: Mapping[str, Any]) -> bool:
    """Tell whether an order can only close in hedge mode: a sale of LONG, a purchase of SHORT."""
    return (order["side"], order.get("position_side")) in {("SELL", "LONG"), ("BUY", "SHORT")}


def _dump_brackets(order: Mapping[str, Any], place: Place) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for field, name in (("stop_loss", "stopLoss"), ("take_profit", "takeProfit")):
        if field in order:
            if not place.features.get("attachedStopLossTakeProfit"):
                raise OrderValidationError(f"{field}: is not native to {place.symbol} at this venue")
            params[name] = {"triggerPrice": _plain(order[field])}
    return params


def leave_out_none(answer: Any) -> dict[str, Any]:
    """Return the fields that have a value; nothing of an answer that is no mapping."""
    return {n: v for n, v in answer.items() if v is not None} if isinstance(answer, Mapping) else {}


def parse_answer(
    answer: Mapping[str, Any], *, client_order_id: str = "", quantity: Any = None, size: Decimal = ONE
) -> OrderResult:
    """Return ccxt's order; amounts in contracts become base units, fields without value are left out."""
    told = leave_out_none(answer)
    if size != ONE:
        for name in ("amount", "filled", "remaining"):
            if name in told:
                told[name] = float(parse_decimal(told[name], name) * size)
    asked = None if quantity is None else parse_decimal(quantity, "quantity")
    return OrderResult(told, client_order_id=client_order_id, quantity=asked)


def classify_ccxt(
    error: Exception, http_status: int | None = None, retry_after_s: float | None = None
) -> Verdict:
    """Judge a failed ccxt call by the names of its error's classes, as ccxt's hierarchy gives them.

    `http_status` is that of the last answer. A rate limit or a wrong nonce took nothing, nor did a
    connection that never stood; named exchange errors are final, and so are the bare ones of a 4xx; all
    else is open, for ccxt raises the bare one for broken answers too.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    reason = f"{type(error).__name__}: {error}"
    cause = error.__cause__
    if cause is not None:
        # The network's own error: there was no answer, and the status is an older one.
        is_unsent = isinstance(cause, Exception) and classify_error(cause).outcome is Outcome.NOT_TAKEN
        if is_unsent or isinstance(cause, socket.gaierror):
            return Verdict(Outcome.NOT_TAKEN, reason)
        http_status = None
    if names & {"RateLimitExceeded", "InvalidNonce"} or _is_throttled(names, http_status):
        return Verdict(Outcome.NOT_TAKEN, reason, http_status, retry_after_s)
    if _FAMILY in names:
        is_named = type(error).__name__ != _FAMILY
        if is_named or (http_status is not None and classify_status(http_status) is Outcome.FINAL):
            looks_first = "DuplicateOrderId" in names or _DUPLICATE.search(str(error)) is not None
            return Verdict(Outcome.FINAL, reason, http_status, looks_first=looks_first)
    return Verdict(Outcome.AMBIGUOUS, reason, http_status, retry_after_s)


def _is_throttled(names: set[str], http_status: int | None) -> bool:
    # Binance's 429 and 418 arrive as DDoSProtection; elsewhere that word is a proxy's guess.
    return http_status in NOT_TAKEN_STATUSES or (http_status == 418 and "DDoSProtection" in names)


def is_named(error: BaseException, *names: str) -> bool:
    """Tell whether ccxt's error is of one of the named families."""
    return any(kind.__name__ in names for kind in type(error).__mro__)


def is_already_so(error: BaseException) -> bool:
    """Tell whether a refused setting was refused because nothing would change."""
    return is_named(error, "NoChange", "MarginModeAlreadySet") or _ALREADY_SO.search(str(error)) is not None


def read_amount(value: Any) -> Decimal:
    """Return a number of ccxt's, 0 for none."""
    return ZERO if value is None else parse_decimal(value, "amount")


def parse_fill(row: Mapping[str, Any], size: Decimal) -> Fill:
    """Return ccxt's trade; `size` is the base units of one unit of its amount."""
    fee = row.get("fee") or {}
    return Fill(
        symbol=symbol_key(row["symbol"]),
        side=Side(row["side"].upper()),
        quantity=read_amount(row["amount"]) * size,
        price=read_amount(row["price"]),
        fee=read_amount(fee.get("cost")),
        fee_asset=str(fee.get("currency") or ""),
        is_maker=row.get("takerOrMaker") == "maker",
        ts_ms=int(row.get("timestamp") or 0),
        trade_id=str(row.get("id") or ""),
        order_id=str(row.get("order") or ""),
    )


def parse_position(row: Mapping[str, Any], market: Mapping[str, Any]) -> Position:
    """Return ccxt's position in signed base units."""
    quantity = abs(read_amount(row.get("contracts"))) * contract_size(market)
    is_short = row.get("side") == "short"
    side = (PositionSide.SHORT if is_short else PositionSide.LONG) if row.get("hedged") else PositionSide.BOTH
    signed = -quantity if is_short else quantity
    return Position(symbol_key(row["symbol"]), side, signed, signed * read_amount(row.get("entryPrice")))


def parse_balances(body: Mapping[str, Any]) -> list[Balance]:
    """Return ccxt's balances; of Binance contracts the wallet, where ccxt counts open profit in.

    ccxt also leaves assets out that never moved, which the venue's own rows in `info` keep.
    """
    info = body.get("info")
    rows = info.get("assets") if isinstance(info, Mapping) else None
    if isinstance(rows, list) and all("walletBalance" in row for row in rows):
        names = ("walletBalance", "availableBalance", "initialMargin")
        return [Balance(row["asset"], *(read_amount(row.get(name)) for name in names)) for row in rows]
    return [
        Balance(
            asset, read_amount(total), *(read_amount(body.get(k, {}).get(asset)) for k in ("free", "used"))
        )
        for asset, total in (body.get("total") or {}).items()
        if total is not None
    ]
