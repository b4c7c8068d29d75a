"""The spot side of the exchange: the same candles, other products, balances instead of positions."""

import itertools
from collections.abc import Callable
from decimal import Decimal

import msgspec
from aiohttp import web

from qmtl.core.money import ZERO
from qmtl.services.paper_exchange.auth import Security
from qmtl.services.paper_exchange.call import Call
from qmtl.services.paper_exchange.exchange import Exchange
from qmtl.services.paper_exchange.market import Update
from qmtl.services.paper_exchange.spot_desk import SpotDesk
from qmtl.services.paper_exchange.spot_listing import list_spot
from qmtl.services.paper_exchange.spot_orders import Message
from qmtl.services.paper_exchange.spot_streams import dump_stream
from qmtl.services.paper_exchange.ws_api import SESSION_METHODS, SessionMethod, WsSession

REALM = "spot"
_encode = msgspec.json.encode
Tell = Callable[[int, Message], None]


class SpotVenue:
    """Spot desks by API key, their user events, and the spot market streams.

    An account owns the configured balance of each quote asset at its first use, and no base asset.
    """

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.pairs = {symbol: list_spot(contract) for symbol, contract in exchange.instruments.items()}
        self.hub = exchange.make_hub()
        self.session_methods = SESSION_METHODS | {
            "userDataStream.subscribe.signature": SessionMethod(self._subscribe, Security.SIGNED, 2),
            "userDataStream.unsubscribe": SessionMethod(self._unsubscribe, Security.NONE, 2),
        }
        self._desks: dict[str, SpotDesk] = {}
        self._sessions: dict[str, dict[int, WsSession]] = {}
        self._numbers = itertools.count()
        exchange.watchers.append(self.on_update)

    # --- accounts -----------------------------------------------------------------------------

    def desk(self, call: Call) -> SpotDesk:
        """Return the caller's desk, made at its first use."""
        key = call.account.key
        found = self._desks.get(key)
        if found is None:
            found = self._desks[key] = self._open_desk()
        return found

    def _open_desk(self) -> SpotDesk:
        exchange = self.exchange
        assets: dict[str, Decimal] = {}
        for pair in self.pairs.values():
            assets.setdefault(pair.base, ZERO)
            assets[pair.quote] = exchange.config.balance
        desk = SpotDesk(
            self.pairs, exchange.config.fees, assets, lambda symbol: exchange.markets[symbol].last_price
        )
        now_ms = exchange.clock.now_ms()
        for symbol, market in exchange.markets.items():
            volume = market.forming.candle_volume if market.forming else market.bars[-1].volume
            desk.on_price(symbol, market.last_price, now_ms, self._share(symbol, volume))
        return desk

    def _share(self, symbol: str, volume: float) -> Decimal | None:
        return self.exchange.config.liquidity.available(volume, self.pairs[symbol].lot_size)

    # --- publishing ---------------------------------------------------------------------------

    def on_update(self, update: Update) -> None:
        """Let a publication act on the desks, then show it on the spot streams."""
        share = self._share(update.symbol, update.candle_volume)
        for key, desk in self._desks.items():
            self.tell(key, desk.on_price(update.symbol, update.close, update.ts_ms, share))
        market = self.exchange.markets[update.symbol]
        for name in self.hub.names_of(market.symbol.lower()):
            body = dump_stream(market, update, name)
            if body is not None:
                self.hub.publish(name, _encode(body))

    def tell(self, key: str, messages: list[Message]) -> None:
        """Send user events to the owner's listenKey stream and WebSocket API subscriptions."""
        listen_key = self.exchange.listen_keys.find(key, REALM)
        for message in messages:
            if listen_key is not None and self.hub.has_user(listen_key.name):
                self.hub.publish_user(listen_key.name, str(message["e"]), _encode(message))
            for number, session in self._sessions.get(key, {}).items():
                session.events.reply({"subscriptionId": number, "event": message})

    def _subscribe(self, session: WsSession, call: Call) -> Message:
        key = call.account.key
        self.desk(call)
        number = next(self._numbers)
        self._sessions.setdefault(key, {})[number] = session
        session.on_close.append(lambda: self._leave(number))
        return {"subscriptionId": number}

    def _unsubscribe(self, session: WsSession, call: Call) -> Message:
        number = call.integer("subscriptionId")
        for sessions in self._sessions.values():
            for mine in [n for n, other in sessions.items() if other is session and number in {None, n}]:
                del sessions[mine]
        return {}

    def _leave(self, number: int) -> None:
        for sessions in self._sessions.values():
            sessions.pop(number, None)

    # --- serving ------------------------------------------------------------------------------

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer `/ws` and `/stream`; a futures listenKey there is an older client's futures stream."""
        first = request.match_info.get("names", "") or request.query.get("streams", "")
        name = first.partition("/")[0].partition("@")[0]
        if name in self.exchange.listen_keys and not self._is_spot_key(name):
            return await self.exchange.hub.serve(request)
        return await self.hub.serve(request)

    def _is_spot_key(self, name: str) -> bool:
        held = (self.exchange.listen_keys.find(owner, REALM) for owner in self._desks)
        return any(key is not None and key.name == name for key in held)
