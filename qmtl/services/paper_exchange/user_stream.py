"""Messages of the user data stream, shaped as the venue sends them."""

from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any

from qmtl.core.money import ZERO
from qmtl.core.order import OrderType, TimeInForce
from qmtl.core.position import Position
from qmtl.services.paper_exchange.records import AlgoRecord, FillRecord, OrderRecord, text

Message = dict[str, Any]
_STEP = Decimal("1E-8")


@lru_cache(maxsize=8_192)
def money(value: Decimal) -> str:
    """Print an amount of the settle currency, to eight decimals."""
    return text(value.quantize(_STEP))


def order_trade_update(
    record: OrderRecord, execution: str, ts_ms: int, fill: FillRecord | None = None
) -> Message:
    """Return ORDER_TRADE_UPDATE: what happened to an order (`execution`: NEW, TRADE, CANCELED, ...)."""
    intent = record.intent
    body: Message = {
        "s": intent.symbol,
        "c": record.client_id,
        "S": intent.side.value,
        "o": record.type.value,
        "f": record.time_in_force,
        "q": text(intent.quantity),
        "p": text(intent.limit_price),
        "ap": text(record.average.quantize(_STEP) if record.executed else None),
        "sp": text(intent.stop_price),
        "x": execution,
        "X": record.status,
        "i": record.order_id,
        "l": text(fill.quantity if fill else None),
        "z": text(record.executed),
        "L": text(fill.price if fill else None),
        "T": ts_ms,
        "t": fill.trade_id if fill else 0,
        "b": "0",
        "a": "0",
        "m": bool(fill and fill.is_maker),
        "R": intent.reduce_only,
        "wt": intent.working_type.value,
        "ot": record.original_type.value,
        "ps": intent.position_side.value,
        "cp": intent.close_position,
        "rp": money(fill.realized if fill else ZERO),
        "pP": False,
        "si": 0,
        "ss": 0,
        "V": "NONE",
        "pm": "NONE",
        "gtd": intent.expire_ms or 0,
        "er": record.expiry,
    }
    if fill is not None:
        body |= {"N": fill.fee_asset, "n": text(fill.fee)}
    if record.original_type is OrderType.TRAILING_STOP_MARKET:
        body |= {"AP": text(intent.activation_price), "cr": text(intent.callback_rate)}
    return {"e": "ORDER_TRADE_UPDATE", "E": ts_ms, "T": ts_ms, "o": body}


def trade_lite(fill: FillRecord, record: OrderRecord, ts_ms: int) -> Message:
    """Return TRADE_LITE: a fill, told sooner and shorter."""
    return {
        "e": "TRADE_LITE",
        "E": ts_ms,
        "T": ts_ms,
        "s": fill.symbol,
        "q": text(record.intent.quantity),
        "p": text(record.intent.limit_price),
        "m": fill.is_maker,
        "c": record.client_id,
        "S": fill.side.value,
        "L": text(fill.price),
        "l": text(fill.quantity),
        "t": fill.trade_id,
        "i": fill.order_id,
    }


def account_update(
    reason: str,
    ts_ms: int,
    balance: tuple[str, Decimal, Decimal, Decimal],
    positions: Iterable[Message],
) -> Message:
    """Return ACCOUNT_UPDATE; `balance` is (asset, wallet, cross wallet, change other than profit and fee)."""
    asset, wallet, cross, change = balance
    row = {"a": asset, "wb": money(wallet), "cw": money(cross), "bc": money(change)}
    return {
        "e": "ACCOUNT_UPDATE",
        "E": ts_ms,
        "T": ts_ms,
        "a": {"m": reason, "B": [row], "P": list(positions)},
    }


def position_row(
    position: Position, *, mark: Decimal | None, mode: str, isolated: Decimal, realized: Decimal = ZERO
) -> Message:
    """Return one position as ACCOUNT_UPDATE lists it."""
    entry = position.entry_price.quantize(_STEP) if position.quantity else ZERO
    profit = position.unrealized(mark) if mark is not None and position.quantity else ZERO
    return {
        "s": position.symbol,
        "pa": text(position.quantity),
        "ep": text(entry),
        "cr": money(realized),
        "up": money(profit),
        "mt": "isolated" if mode == "isolated" else "cross",
        "iw": money(isolated),
        "ps": position.side.value,
        "bep": text(entry),
    }


def algo_update(record: AlgoRecord, order: OrderRecord | None, ts_ms: int, reason: str = "") -> Message:
    """Return ALGO_UPDATE: what became of a conditional order; `order` is the one it placed."""
    intent = record.intent
    body: Message = {
        "caid": record.client_id,
        "aid": record.algo_id,
        "at": "CONDITIONAL",
        "o": intent.type.value,
        "s": intent.symbol,
        "S": intent.side.value,
        "ps": intent.position_side.value,
        "f": (intent.time_in_force or TimeInForce.GTC).value,
        "q": text(intent.quantity),
        "X": record.status,
        "ai": str(order.order_id) if order else "",
        "ap": text(order.average if order else None, "0.00000"),
        "aq": text(order.executed if order else None, "0.00000"),
        "act": order.type.value if order else "0",
        "tp": text(intent.stop_price),
        "p": text(intent.limit_price),
        "V": "NONE",
        "wt": intent.working_type.value,
        "pm": "NONE",
        "cp": intent.close_position,
        "pP": record.is_price_protected,
        "R": intent.reduce_only or intent.close_position,
        "tt": record.trigger_ms,
        "gtd": intent.expire_ms or 0,
        "rm": reason,
    }
    return {"e": "ALGO_UPDATE", "E": ts_ms, "T": ts_ms, "o": body}


def leverage_update(symbol: str, leverage: int, ts_ms: int) -> Message:
    """Return ACCOUNT_CONFIG_UPDATE of a symbol's leverage."""
    return {"e": "ACCOUNT_CONFIG_UPDATE", "E": ts_ms, "T": ts_ms, "ac": {"s": symbol, "l": leverage}}


def multi_assets_update(*, is_on: bool, ts_ms: int) -> Message:
    """Return ACCOUNT_CONFIG_UPDATE of the multi-assets mode."""
    return {"e": "ACCOUNT_CONFIG_UPDATE", "E": ts_ms, "T": ts_ms, "ai": {"j": is_on}}


def listen_key_expired(listen_key: str, ts_ms: int) -> Message:
    """Return listenKeyExpired: nothing more will come under this key."""
    return {"e": "listenKeyExpired", "E": ts_ms, "listenKey": listen_key}


def margin_call(cross_wallet: Decimal, rows: list[Message], ts_ms: int) -> Message:
    """Return MARGIN_CALL: positions close to liquidation."""
    return {"e": "MARGIN_CALL", "E": ts_ms, "cw": text(cross_wallet), "p": rows}


def margin_call_row(
    position: Position, *, mode: str, isolated: Decimal, mark: Decimal, maintenance: Decimal
) -> Message:
    """Return one position of a MARGIN_CALL."""
    return {
        "s": position.symbol,
        "ps": position.side.value,
        "pa": text(position.quantity),
        "mt": "ISOLATED" if mode == "isolated" else "CROSSED",
        "iw": money(isolated),
        "mp": text(mark),
        "up": text(position.unrealized(mark)),
        "mm": text(maintenance),
    }
