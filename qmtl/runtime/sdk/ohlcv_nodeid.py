"""Names of series: `ohlcv:{exchange}:{symbol}:{timeframe}` and `trades:{exchange}:{symbol}`.

The exchange is lower case; the symbol is ccxt's unified one with `%` written `%25` and `:` written `%3A`.
"""

import re
from typing import Literal, NamedTuple

from qmtl.core.interval import INTERVAL_MS

TIMEFRAME_SECONDS: dict[str, int] = {name: length // 1000 for name, length in INTERVAL_MS.items()}
"""Length of every timeframe in seconds."""

_EXCHANGE = re.compile(r"[a-z0-9_]+")
_BAD_ESCAPE = re.compile(r"%(?!25|3A)")
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")


class NodeIdError(ValueError):
    """A node id names no series, or not the one that was asked; the message says why and what to write."""

    def __init__(self, node_id: object, reason: str, suggestion: str | None = None) -> None:
        hint = f"; write '{suggestion}'" if suggestion else ""
        super().__init__(f"cannot resolve node_id '{node_id}': {reason}{hint}")
        self.node_id = node_id
        self.reason = reason


class NodeId(NamedTuple):
    """A parsed name: kind, exchange, decoded symbol, timeframe (None for trades)."""

    kind: Literal["ohlcv", "trades"]
    exchange: str
    symbol: str
    timeframe: str | None


def build(exchange: str, symbol: str, timeframe: str, *, escape: bool = False) -> str:
    """Return the name of a series of bars.

    ValueError for a blank part, an unknown timeframe, a bare `:` or `%`; `escape=True` writes
    both as the name needs them.
    """
    if timeframe not in TIMEFRAME_SECONDS:
        raise ValueError(f"timeframe {timeframe!r} is not known; known: {', '.join(TIMEFRAME_SECONDS)}")
    return f"ohlcv:{_head(exchange, symbol, escape=escape)}:{timeframe}"


def build_trades(exchange: str, symbol: str, *, escape: bool = False) -> str:
    """Return the name of a series of trades; errors as `build`."""
    return f"trades:{_head(exchange, symbol, escape=escape)}"


def parse(node_id: object) -> tuple[str, str, str] | None:
    """Return (exchange, decoded symbol, timeframe) of a canonical name of bars, None for anything else."""
    try:
        named = parse_node_id(node_id)
    except NodeIdError:
        return None
    return None if named.timeframe is None else (named.exchange, named.symbol, named.timeframe)


def validate(node_id: object) -> bool:
    """Tell whether a name is canonical."""
    try:
        parse_node_id(node_id)
    except NodeIdError:
        return False
    return True


def parse_node_id(node_id: object) -> NodeId:
    """Return the parts of a canonical name of bars or trades; NodeIdError says what is wrong with it."""
    if not isinstance(node_id, str):
        raise NodeIdError(node_id, f"expected text, got {type(node_id).__name__}")
    kind, *parts = node_id.split(":")
    if kind == "ohlcv":
        return _parse_bars(node_id, parts)
    if kind == "trades":
        return _parse_trades(node_id, parts)
    raise NodeIdError(node_id, "it must start with ohlcv: or trades:")


def _parse_bars(node_id: str, parts: list[str]) -> NodeId:
    if len(parts) < 3:
        raise NodeIdError(node_id, "expected ohlcv:exchange:symbol:timeframe")
    exchange, timeframe, symbol = parts[0], parts[-1], ":".join(parts[1:-1])
    if timeframe not in TIMEFRAME_SECONDS:
        raise NodeIdError(node_id, f"timeframe {timeframe!r} is not known")
    if len(parts) > 3:
        suggestion = f"ohlcv:{exchange}:{_escape(symbol)}:{timeframe}"
        raise NodeIdError(node_id, "the symbol holds an unescaped ':'", suggestion)
    return NodeId("ohlcv", _checked(node_id, exchange), _decoded(node_id, symbol), timeframe)


def _parse_trades(node_id: str, parts: list[str]) -> NodeId:
    if len(parts) < 2:
        raise NodeIdError(node_id, "expected trades:exchange:symbol")
    exchange, symbol = parts[0], ":".join(parts[1:])
    if len(parts) > 2:
        suggestion = f"trades:{exchange}:{_escape(symbol)}"
        raise NodeIdError(node_id, "the symbol holds an unescaped ':'", suggestion)
    return NodeId("trades", _checked(node_id, exchange), _decoded(node_id, symbol), None)


def _checked(node_id: str, exchange: str) -> str:
    if not _EXCHANGE.fullmatch(exchange):
        raise NodeIdError(node_id, f"exchange {exchange!r} is not lower-case letters, digits and _")
    return exchange


def _decoded(node_id: str, symbol: str) -> str:
    if not symbol:
        raise NodeIdError(node_id, "the symbol is empty")
    if _UNPRINTABLE.search(symbol):
        raise NodeIdError(node_id, "the symbol holds white space or a control character")
    if _BAD_ESCAPE.search(symbol):
        raise NodeIdError(node_id, "only %25 and %3A are escapes, in upper case")
    return symbol.replace("%3A", ":").replace("%25", "%")


def _escape(symbol: str) -> str:
    # A part that is escaped already stays as it is.
    return _BAD_ESCAPE.sub("%25", symbol).replace(":", "%3A")


def _head(exchange: str, symbol: str, *, escape: bool) -> str:
    if not _EXCHANGE.fullmatch(exchange):
        raise ValueError(f"exchange {exchange!r} is not lower-case letters, digits and _")
    if not symbol:
        raise ValueError("symbol is blank")
    if _UNPRINTABLE.search(symbol):
        raise ValueError(f"symbol {symbol!r} holds white space or a control character")
    if escape:
        return f"{exchange}:{symbol.replace('%', '%25').replace(':', '%3A')}"
    if ":" in symbol or "%" in symbol:
        raise ValueError(f"symbol {symbol!r} holds ':' or '%'; pass escape=True")
    return f"{exchange}:{symbol}"
