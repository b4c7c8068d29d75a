"""Binance USDT-M WebSocket frames as events: the pure half of the venue's connection.

A frame is raw (`{"e": …}`) or wrapped (`{"stream": …, "data": {…}}`). Numbers come as text; market data
becomes float, money becomes Decimal. Field letters are explained on the venue's pages: market streams at
https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams, user data
beside it under user-data-streams.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from qmtl.core.event import BarClosed, PriceUpdated
from qmtl.runtime.io.binance_account_messages import ACCOUNT_PARSERS, AccountMessage, Body, Refusal
from qmtl.runtime.io.binance_market_messages import (
    MARKET_PARSERS,
    MarketMessage,
    decode_kline,
    decode_wrapped_kline,
    parse_depth_snapshot,
)
from qmtl.runtime.io.binance_order_messages import ORDER_PARSERS, AlgoChildren, OrderMessage

Message = AccountMessage | OrderMessage | MarketMessage
"""What a frame can mean: an event of the engine, a typed message it has no use for, or a named refusal."""

Messages = tuple[Message, ...]


class _Answer(msgspec.Struct):
    """A reply on a socket: to SUBSCRIBE and its like, or an error."""

    id: int | str | None = None
    error: dict[str, Any] | None = None
    code: int | None = None
    msg: str = ""


class _Wrapped(msgspec.Struct):
    data: msgspec.Raw
    stream: str = ""


def _decoder(kind: type) -> Callable[[Body], Any]:
    return msgspec.json.Decoder(kind, strict=False).decode


_decode_wrapped, _decode_answer = _decoder(_Wrapped), _decoder(_Answer)

_SPOT = "a spot message; this mapper reads USDT-M futures"
_UNUSED = "known, and of no use to an engine"
_REFUSED: dict[bytes, str] = {
    b"24hrMiniTicker": _UNUSED,
    b"assetIndexUpdate": _UNUSED,
    b"compositeIndex": _UNUSED,
    b"contractInfo": _UNUSED,
    b"tradingSession": _UNUSED,
    b"GRID_UPDATE": "the venue's own grid orders are not ours",
    b"STRATEGY_UPDATE": "the venue's own strategies are not ours",
    b"balanceUpdate": _SPOT,
    b"executionReport": _SPOT,
    b"listStatus": _SPOT,
    b"outboundAccountPosition": _SPOT,
}


_KLINE, _WRAPPER = b'"e":"kline"', b'{"stream"'
_KLINE_WITHIN = 100
"""The event type stands first in a raw frame and behind the stream's name in a wrapped one."""


class BinanceMessageMapper:
    """Frames in, messages out; remembers which child order belongs to which conditional order.

    `unknown` counts event types no table names and frames that do not decode, by name.
    """

    def __init__(self) -> None:
        self.children = AlgoChildren()
        self.unknown: dict[str, int] = {}

    def parse(self, body: bytes) -> Messages:
        """Return what one frame means, never nothing; a frame that is not understood is a Refusal."""
        if body.find(_KLINE, 0, _KLINE_WITHIN) >= 0:
            return self._parse_kline(body, is_wrapped=body.startswith(_WRAPPER))
        at = body.find(b'"e":')
        if at < 0:
            return self._parse_unnamed(body)
        start = body.find(b'"', at + 4) + 1
        kind = body[start : body.find(b'"', start)]
        is_wrapped = at > 8 and body.find(b'"stream"', 0, at) >= 0
        if kind == b"kline":
            return self._parse_kline(body, is_wrapped=is_wrapped)
        try:
            return self._parse_named(kind, _decode_wrapped(body).data if is_wrapped else body)
        except msgspec.DecodeError as error:
            return self._count(f"malformed {kind.decode(errors='replace')}", str(error))

    def _parse_kline(self, body: bytes, *, is_wrapped: bool) -> Messages:
        """Read the busiest frame with as little looking as possible."""
        try:
            m = decode_wrapped_kline(body).data if is_wrapped else decode_kline(body)
        except msgspec.DecodeError as error:
            return self._count("malformed kline", str(error))
        c = m.candle
        event = BarClosed if c.is_closed else PriceUpdated
        return (event(m.ts_ms, c.symbol, c.open_ms, c.open, c.high, c.low, c.close, c.volume),)

    def _parse_named(self, kind: bytes, body: Body) -> Messages:
        parse_market = MARKET_PARSERS.get(kind)
        if parse_market is not None:
            return parse_market(body)
        parse_order = ORDER_PARSERS.get(kind)
        if parse_order is not None:
            return parse_order(body, self.children)
        parse_account = ACCOUNT_PARSERS.get(kind)
        if parse_account is not None:
            return parse_account(body)
        name = kind.decode(errors="replace")
        why = _REFUSED.get(kind)
        return (Refusal(name, why),) if why else self._count(name, "no table names this event type")

    def _parse_unnamed(self, body: bytes) -> Messages:
        try:
            if b'"lastUpdateId"' in body:
                wrapped = body.find(b'"stream"', 0, 40) >= 0
                return parse_depth_snapshot(_decode_wrapped(body).data if wrapped else body)
            answer: _Answer = _decode_answer(body)
        except msgspec.DecodeError as error:
            return self._count("malformed", str(error))
        if answer.error is not None or answer.code is not None:
            return (Refusal("error", f"{answer.error or answer.msg}"),)
        if answer.id is not None:
            return (Refusal("answer", f"to request {answer.id}"),)
        return self._count("nameless", "the frame has no event type")

    def _count(self, name: str, why: str) -> Messages:
        self.unknown[name] = self.unknown.get(name, 0) + 1
        return (Refusal(name, why),)
