"""The exchange itself: markets, accounts, clock and numbers, and the one place where time moves them."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from qmtl.core.interval import FUNDING_MS
from qmtl.core.money import dump_decimal
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.engine.ports import Clock
from qmtl.services.paper_exchange import market_streams, user_stream
from qmtl.services.paper_exchange.accounts import PaperAccount
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.faults import FaultPlan
from qmtl.services.paper_exchange.listen_keys import ListenKeys
from qmtl.services.paper_exchange.market import Market, Trade, Update, merge_updates
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.services.paper_exchange.stream_hub import StreamHub
from qmtl.services.paper_exchange.weights import WeightMeter

_encode = msgspec.json.encode
Watcher = Callable[[Update], None]


class Exchange:
    """Everything the routes act on.

    `watchers` are called with every publication before it reaches the market streams: other products
    (spot) move their own books there; `closers` end their sockets when the exchange stops. Raises
    BarError or FileNotFoundError for bad candles.
    """

    def __init__(self, config: PaperExchangeConfig, clock: Clock) -> None:
        self.config = config
        self.clock = clock
        self.random = SeededRandom(config.seed)
        self.faults = FaultPlan(SeededRandom(config.seed + 1))
        self.weights = WeightMeter(config.limits)
        self.listen_keys = ListenKeys(SeededRandom(config.seed + 2), config.listen_key_ms)
        self.hubs: list[StreamHub] = []
        self.hub = self.make_hub()
        self.start_ms = clock.now_ms()
        self.markets = {
            settings.symbol: Market(settings, config.candle_path, self.start_ms)
            for settings in config.markets
        }
        self.instruments = {symbol: market.instrument for symbol, market in self.markets.items()}
        self.accounts: dict[str, PaperAccount] = {}
        self.watchers: list[Watcher] = []
        self.closers: list[Callable[[], object]] = []
        self.published = 0
        self._updates = merge_updates(self.markets.values(), self.start_ms)
        self._next = next(self._updates, None)
        self._next_funding_ms = self.start_ms // FUNDING_MS * FUNDING_MS + FUNDING_MS
        self._mark_ticks = 0

    def make_hub(self) -> StreamHub:
        """Return a hub of its own for one more product; it drains and ends with the exchange."""
        hub = StreamHub(self.faults, self.config.ping_s, self.clock.sleep, self.listen_keys, self.expire_key)
        self.hubs.append(hub)
        return hub

    async def drain(self) -> None:
        """Wait until everything published was handed to the sockets."""
        for hub in self.hubs:
            await hub.drain()

    # --- who and what -------------------------------------------------------------------------

    def now_ms(self) -> int:
        """Return exchange time, wrong by what the fault plan says."""
        return self.clock.now_ms() + self.faults.skew_ms

    @property
    def is_synthetic(self) -> bool:
        """Tell whether any market is made up."""
        return any(market.is_synthetic for market in self.markets.values())

    def market(self, symbol: str | None) -> Market:
        """Return a market; VenueError -1102 without symbol, -1121 when it is not listed."""
        if not symbol:
            raise VenueError(-1102, name="symbol")
        market = self.markets.get(symbol)
        if market is None:
            raise VenueError(-1121)
        return market

    def account(self, key: str | None) -> PaperAccount:
        """Return the account of an API key, made at its first use; VenueError -2014, -2015."""
        if not key:
            raise VenueError(-2014)
        account = self.accounts.get(key)
        if account is not None:
            return account
        secret = self.config.accounts.get(key)
        if secret is None:
            if not self.config.is_open:
                raise VenueError(-2015)
            secret = key
        account = PaperAccount(
            key,
            secret,
            config=self.config,
            instruments=self.instruments,
            send=lambda body: self.tell(key, body),
        )
        for symbol, market in self.markets.items():
            if market.last_price:
                share = self.config.liquidity.available(market.candle_volume, market.instrument.lot_size)
                account.core.on_price(symbol, market.last_price, self.clock.now_ms(), share)
        self.accounts[key] = account
        return account

    def tell(self, owner: str, body: dict[str, Any], realm: str = "futures") -> None:
        """Send a user event to whoever listens to the owner's listenKey."""
        key = self.listen_keys.find(owner, realm)
        if key is not None and self.hub.has_user(key.name):
            self.hub.publish_user(key.name, str(body["e"]), _encode(body))

    def expire_key(self, name: str) -> None:
        """End a listenKey: its listeners are told, and nothing more comes under it."""
        key = self.listen_keys.pop(name)
        if key is not None:
            body = user_stream.listen_key_expired(name, self.clock.now_ms())
            for hub in self.hubs:
                hub.publish_user(name, "listenKeyExpired", _encode(body))
                hub.forget_key(name)

    # --- time ---------------------------------------------------------------------------------

    @property
    def next_ms(self) -> int | None:
        """Exchange time of the next publication, None when candles have ended."""
        return None if self._next is None else self._next.ts_ms

    def publish_next(self) -> Update | None:
        """Publish the next update, None when candles have ended.

        Orders meet the new price first, then the market streams show it; a virtual clock moves along.
        """
        update = self._next
        if update is None:
            return None
        if isinstance(self.clock, VirtualClock) and self.config.is_manual:
            self.clock.set_now_ms(update.ts_ms)
        # A publication that is stepped ahead of the clock does not age what counts exchange time.
        self.pass_time(min(update.ts_ms, self.clock.now_ms()))
        self._apply(update)
        self._next = next(self._updates, None)
        self.published += 1
        return update

    def print_trades(self, symbol: str, trades: Sequence[Trade]) -> None:
        """Let public trades happen: REST answers them, both products' aggTrade streams show them.

        They come in the order of time and id, and are then all the trades that the market has.
        """
        market = self.markets[symbol]
        market.prints += trades
        for hub in self.hubs:
            for name in hub.names_of(symbol.lower()):
                if market_streams.channel_of(name) == "aggTrade":
                    for trade in trades:
                        hub.publish(name, _encode(market_streams.dump_agg_trade(market, trade)))

    def _apply(self, update: Update) -> None:
        market = self.markets[update.symbol]
        market.apply(update)
        share = self.config.liquidity.available(update.candle_volume, market.instrument.lot_size)
        for account in self.accounts.values():
            account.fold(
                account.core.on_price(update.symbol, update.close, update.ts_ms, share), update.ts_ms
            )
            account.fold(account.core.on_mark(update.symbol, update.close, update.ts_ms), update.ts_ms)
            account.check_triggers(update.ts_ms)
            account.check_margin(update.ts_ms)
        for watcher in self.watchers:
            watcher(update)
        self._stream(market, update)
        self.publish_marks(update.ts_ms, update.symbol)

    def _stream(self, market: Market, update: Update) -> None:
        for name in self.hub.names_of(market.symbol.lower()):
            dump = market_streams.CHANNELS.get(market_streams.channel_of(name))
            body = dump(market, update, name) if dump is not None else None
            if body is not None:
                self.hub.publish(name, _encode(body))
        for name in self.hub.names_of("!"):
            channel = market_streams.ALL_MARKET.get(name)
            if channel is not None:
                body = market_streams.CHANNELS[channel](market, update, name)
                self.hub.publish(name, _encode([body] if name.endswith("@arr") else body))

    def publish_marks(self, ts_ms: int, symbol: str | None = None) -> None:
        """Publish mark prices: of one symbol when it moved, of all when a second passed."""
        if symbol is None:
            self._mark_ticks += 1
        rows = []
        for market in self.markets.values():
            if symbol not in {None, market.symbol}:
                continue
            body = self.dump_mark(market, ts_ms)
            rows.append(body)
            for name in self.hub.names_of(market.symbol.lower()):
                if market_streams.channel_of(name) == "markPrice" and self._is_due(name, symbol):
                    self.hub.publish(name, _encode(body))
        for name in self.hub.names_of("!"):
            if name.startswith("!markPrice@arr") and self._is_due(name, symbol):
                self.hub.publish(name, _encode(rows))

    def _is_due(self, name: str, symbol: str | None) -> bool:
        return symbol is not None or name.endswith("@1s") or self._mark_ticks % 3 == 0

    def dump_mark(self, market: Market, ts_ms: int) -> dict[str, Any]:
        """Return markPriceUpdate of a market with the rate of the coming funding."""
        rate = dump_decimal(market.funding_rate(self._next_funding_ms))
        return market_streams.dump_mark(market, ts_ms, rate, self._next_funding_ms)

    @property
    def next_funding_ms(self) -> int:
        """Exchange time of the coming funding."""
        return self._next_funding_ms

    def pass_time(self, now_ms: int) -> None:
        """Do what is due by exchange time: funding, order expiry, listenKeys, count-downs."""
        while self._next_funding_ms <= now_ms:
            self._settle_funding(self._next_funding_ms)
            self._next_funding_ms += FUNDING_MS
        for name in self.listen_keys.expired(now_ms):
            self.expire_key(name)
        for account in self.accounts.values():
            account.fold(account.core.on_time(now_ms), now_ms)
            for symbol, deadline_ms in tuple(account.countdowns.items()):
                if deadline_ms <= now_ms:
                    del account.countdowns[symbol]
                    self.cancel_all(account, symbol, now_ms)

    def _settle_funding(self, ts_ms: int) -> None:
        for symbol, market in self.markets.items():
            rate = market.funding_rate(ts_ms)
            for account in self.accounts.values():
                account.fold(account.core.on_funding(symbol, rate, ts_ms, market.last_price), ts_ms)

    def cancel_all(self, account: PaperAccount, symbol: str, now_ms: int) -> None:
        """Do what a count-down does at its end: cancel the symbol's orders, conditional ones by config."""
        for record in account.open_orders(symbol):
            account.cancel(record, now_ms)
        if not self.config.countdown_spares_algo:
            for algo in account.open_algos(symbol):
                account.cancel_algo(algo, now_ms)
