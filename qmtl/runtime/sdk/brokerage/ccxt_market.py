"""Markets as ccxt lists them: which one a symbol means, and its steps."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from qmtl.core.instrument import Instrument, split_symbol
from qmtl.core.money import ONE, ZERO
from qmtl.core.order import OrderValidationError

_DECIMAL_PLACES = 2
_TICK_SIZE = 4
_FINE = Decimal("1E-8")
_LARGE = Decimal(10) ** 12
CONTRACT_TYPES = frozenset({"future", "swap", "delivery"})


def resolve_symbol(exchange: Any, symbol: str, *, is_contract: bool) -> str:
    """Return ccxt's name of `symbol`: `BTCUSDT` and `BTC/USDT` mean the linear contract on futures.

    Raises OrderValidationError when loaded markets have no such symbol.
    """
    markets = getattr(exchange, "markets", None) or {}
    text = symbol.strip().upper()
    pair, _, settle = text.partition(":")
    if "/" not in pair:
        if text in markets:
            return text
        listed = _listed(exchange, text, is_contract=is_contract)
        if listed is not None:
            return listed
        pair = _pair(text)
    quote = pair.partition("/")[2]
    name = f"{pair}:{settle or quote}" if settle or is_contract else pair
    if markets and name not in markets:
        raise OrderValidationError(f"symbol: {symbol!r} is not a market of {getattr(exchange, 'id', 'this')}")
    return name


def _listed(exchange: Any, market_id: str, *, is_contract: bool) -> str | None:
    rows = (getattr(exchange, "markets_by_id", None) or {}).get(market_id) or []
    for row in rows if isinstance(rows, list) else [rows]:
        if bool(row.get("contract")) is is_contract and (not is_contract or row.get("linear")):
            return str(row["symbol"])
    return None


def _pair(text: str) -> str:
    try:
        base, quote = split_symbol(text)
    except ValueError as error:
        raise OrderValidationError(str(error)) from None
    return f"{base}/{quote}"


def find_market(exchange: Any, name: str) -> dict[str, Any]:
    """Return the market called `name`, empty when markets are not known."""
    return dict((getattr(exchange, "markets", None) or {}).get(name) or {})


def contract_size(market: Mapping[str, Any]) -> Decimal:
    """Return the base units of one unit of ccxt's `amount`: a contract's size, else 1."""
    size = market.get("contractSize") if market.get("linear") else None
    return _number(size) or ONE


def parse_instrument(market: Mapping[str, Any], *, mode: int = _TICK_SIZE, symbol: str = "") -> Instrument:
    """Return a market's steps and limits in base and quote units; what it does not say is no limit.

    `mode` is the exchange's precisionMode; significant digits give no step.
    """
    precision, limits = _dict(market.get("precision")), _dict(market.get("limits"))
    amounts, costs = _dict(limits.get("amount")), _dict(limits.get("cost"))
    size = contract_size(market)
    lot = (_step(precision.get("amount"), mode) or _FINE) * size
    most = (_number(amounts.get("max")) or _LARGE) * size
    market_amounts = _dict(limits.get("market"))
    name = str(market.get("symbol") or symbol)
    pair, _, settle = name.partition(":")
    base, _, quote = pair.partition("/")
    return Instrument(
        symbol=symbol or str(market.get("id") or name),
        base=base,
        quote=quote,
        settle=settle,
        tick_size=_step(precision.get("price"), mode) or _FINE,
        lot_size=lot,
        min_quantity=max((_number(amounts.get("min")) or ZERO) * size, ZERO) or lot,
        max_quantity=most,
        market_max_quantity=min((_number(market_amounts.get("max")) or _LARGE) * size, most),
        min_notional=_number(costs.get("min")) or ZERO,
    )


def _step(value: Any, mode: int) -> Decimal | None:
    number = _number(value)
    if mode == _TICK_SIZE:
        return number
    if mode == _DECIMAL_PLACES and number is not None:
        return Decimal(1).scaleb(-int(number))
    return None


def _number(value: Any) -> Decimal | None:
    """Return a positive number, None for anything else ccxt puts where it knows none."""
    if value is None or isinstance(value, bool):
        return None
    number = Decimal(str(value))
    return number if number.is_finite() and number > 0 else None


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
