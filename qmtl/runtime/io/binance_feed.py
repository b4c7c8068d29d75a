"""The running trader's events from Binance USDT-M: candles, marks, own orders, nothing lost between."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from qmtl.core.bar import Bar
from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    Event,
    FundingPaid,
    MarkPriceUpdated,
    OrderFilled,
    PriceUpdated,
    Transferred,
)
from qmtl.core.interval import parse_interval
from qmtl.core.order import BrokerageError
from qmtl.engine.ports import Clock
from qmtl.runtime.io.bar_track import BarTrack
from qmtl.runtime.io.binance_account_messages import ListenKeyExpired, MarginCalled
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_messages import BinanceMessageMapper, Message
from qmtl.runtime.io.binance_rest import CLOCK_LIMIT_MS, BinanceError
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.runtime.io.conflating_queue import ConflatingQueue
from qmtl.runtime.io.frame_inbox import FrameInbox
from qmtl.runtime.io.stream_watch import StreamWatch
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.history import FetchError, SeamlessError, StoreError
from qmtl.runtime.sdk.reconnecting_socket import Break, ReconnectingSocket

PRODUCTION_WS_URL = "wss://fstream.binance.com"
USER_STREAM = "user"
_KEY_GONE = -1125
_FILL_TRIES = 5
_FILL_PAUSE_S = 0.2
_WATCH_EVERY_S = 0.25
_OVERLAP_S = 5.0
_CLOCK_AGAIN_S = 5.0
_log = structlog.get_logger("qmtl.feed")

Reconcile = Callable[[int], Awaitable[Sequence[AnyEvent]]]
History = Callable[[str, int], Awaitable[Sequence[Bar]]]
"""Gives the last so many closed bars of a symbol."""


class FeedSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What to listen to.

    `warmup` closed bars come first, unless `last_open_ms` names the newest bar the journal holds: then what
    is missing since comes as refill. Intervals `…_every_s` say how often a healthy stream speaks, in
    seconds of exchange time; `renew_key_s` likewise, `clock_every_s` is real time. `is_split` is for hosts
    that serve /market and /private apart (the venue does since 2026-04-23).
    """

    symbols: tuple[str, ...]
    interval: str = "1m"
    warmup: int = 0
    last_open_ms: Mapping[str, int] = {}
    has_marks: bool = True
    kline_every_s: float = 30.0
    mark_every_s: float = 1.0
    renew_key_s: float = 1200.0
    clock_every_s: float = 60.0
    clock_limit_ms: float = CLOCK_LIMIT_MS
    is_split: bool = True


class BinanceFuturesFeed:
    """engine.ports.Feed over one market socket and, with `reconcile`, one user socket.

    After every (re)connection of the user stream `reconcile(since_ms)` is asked for what happened since it
    was last heard, and its answer comes before anything newer. Entries need every stream fresh: each is
    told stale when it falls silent and fresh once it caught up. `on_frame` sees every raw frame first.
    `history` brings the warm-up, without one the venue does.
    """

    def __init__(
        self,
        client: BinanceFuturesClient,
        settings: FeedSettings,
        *,
        ws_url: str = PRODUCTION_WS_URL,
        venue: BinanceFuturesVenue | None = None,
        reconcile: Reconcile | None = None,
        history: History | None = None,
    ) -> None:
        self.client = client
        self.settings = settings
        self.mapper = BinanceMessageMapper()
        self.unused: Counter[str] = Counter()
        self._clock: Clock = client.clock
        self._ws_url = ws_url.rstrip("/")
        self._venue = venue
        if venue is not None:
            self.mapper.children = venue.children
        self.on_frame: Callable[[bytes], object] | None = None
        self._reconcile = reconcile
        self._history = history
        self._queue = ConflatingQueue()
        self._inbox = FrameInbox(self._take_market, lambda work: asyncio.get_running_loop().call_soon(work))
        self._kline_names = {symbol: self._kline(symbol) for symbol in settings.symbols}
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: list[AnyEvent] | None = None
        self._heard_ms = 0
        self._interval_ms = parse_interval(settings.interval)
        self._tracks = {symbol: self._make_track(symbol) for symbol in settings.symbols}
        self.watch = StreamWatch(self._clock, self._queue.put, client.now_ms)
        for symbol in settings.symbols:
            self.watch.add(self._kline(symbol), settings.kline_every_s)
            if settings.has_marks:
                self.watch.add(self._mark(symbol), settings.mark_every_s)
        if reconcile is not None:
            self.watch.add(USER_STREAM, None)
        self._market = self._make_socket(
            "market", self._market_url, self._hear_market, self._market_open, self._market_broke
        )
        self._user = self._make_socket(
            USER_STREAM, self._user_url, self._take_user, self._user_open, self._user_broke
        )

    def _make_track(self, symbol: str) -> BarTrack:
        def request_fill(open_ms: int, stop_ms: int) -> None:
            self._spawn(self._fill(symbol, open_ms, stop_ms))

        last = self.settings.last_open_ms.get(symbol)
        return BarTrack(symbol, self._interval_ms, self._queue.put, request_fill, last)

    def _make_socket(
        self,
        name: str,
        find_url: Callable[[], Awaitable[str]],
        take: Callable[[bytes], None],
        on_open: Callable[[], None],
        on_break: Callable[[Break], None],
    ) -> ReconnectingSocket:
        return ReconnectingSocket(
            name,
            lambda: self.client.session,
            self._clock,
            Reconnect(self._clock, self.client.random),
            find_url=find_url,
            take=take,
            on_open=on_open,
            on_break=on_break,
        )

    # --- the port -----------------------------------------------------------------------------------

    async def events(self) -> AsyncIterator[AnyEvent]:
        """See Feed."""
        self._heard_ms = self.client.now_ms()
        self.watch.start()
        for track in self._tracks.values():
            track.hold()
            self._spawn(self._begin(track))
        self._spawn(self._market.run())
        self._spawn(self._keep_clock())
        self._spawn(self._keep_watch())
        if self._reconcile is not None:
            self._spawn(self._user.run())
            self._spawn(self._keep_key())
        async for event in self._queue.drain():
            yield event

    async def aclose(self) -> None:
        """See Feed."""
        self._queue.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def conflated(self) -> int:
        """Prices replaced by newer ones before the engine saw them."""
        held = sum(track.conflated for track in self._tracks.values())
        return self._inbox.conflated + self._queue.conflated + held

    @property
    def reconnects(self) -> dict[str, int]:
        """Breaks by socket."""
        return {socket.name: socket.reconnect.total_breaks for socket in (self._market, self._user)}

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._queue.fail(error)

    # --- market -------------------------------------------------------------------------------------

    def _kline(self, symbol: str) -> str:
        return f"{symbol.lower()}@kline_{self.settings.interval}"

    @staticmethod
    def _mark(symbol: str) -> str:
        return f"{symbol.lower()}@markPrice@1s"

    async def _market_url(self) -> str:
        names = [self._kline(symbol) for symbol in self.settings.symbols]
        if self.settings.has_marks:
            names += [self._mark(symbol) for symbol in self.settings.symbols]
        room = "/market" if self.settings.is_split else ""
        return f"{self._ws_url}{room}/stream?streams={'/'.join(names)}"

    def _market_open(self) -> None:
        self.watch.restart()

    def _market_broke(self, broken: Break) -> None:
        for symbol in self.settings.symbols:
            self.watch.told(self._kline(symbol), broken.reason)
            if self.settings.has_marks:
                self.watch.told(self._mark(symbol), broken.reason)

    def _hear_market(self, body: bytes) -> None:
        if self.on_frame is not None:
            self.on_frame(body)
        self._inbox.put(body)

    def _take_market(self, body: bytes) -> None:
        for message in self.mapper.parse(body):
            kind = message.__class__
            if kind is BarClosed or kind is PriceUpdated:
                symbol = message.symbol  # type: ignore[union-attr]
                track = self._tracks.get(symbol)
                if track is not None:
                    track.take(message)  # type: ignore[arg-type]
                    self.watch.heard(self._kline_names[symbol], is_caught_up=not track.is_filling)
                    continue
            elif isinstance(message, MarkPriceUpdated):
                self.watch.heard(self._mark(message.symbol))
                self._queue.put(message)
                continue
            self._count(message)

    async def _begin(self, track: BarTrack) -> None:
        """Bring history first: warm-up, or what the journal missed while the process was away."""
        last, settings = track.last_open_ms, self.settings
        if last is None and settings.warmup:
            track.fill(await self._warm_up(track.symbol), is_warmup=True)
        elif last is not None:
            track.fill(await self._klines(track.symbol, start_ms=last + self._interval_ms))
        else:
            track.fill(())

    async def _warm_up(self, symbol: str) -> Sequence[Bar]:
        """Ask `history`, where there is one, until it answers; else the venue."""
        ask, count = self._history, self.settings.warmup
        if ask is None:
            return await self._klines(symbol, limit=count)
        reconnect = Reconnect(self._clock, self.client.random)
        while True:
            try:
                return await ask(symbol, count)
            except (FetchError, SeamlessError, StoreError, OSError) as error:
                _log.warning("history is out of reach", symbol=symbol, reason=str(error), action="asks again")
                await self._clock.sleep(reconnect.broke() or 0.0)

    async def _fill(self, symbol: str, open_ms: int, stop_ms: int) -> None:
        """Ask for the bars of [open_ms, stop_ms) until all came, or the venue insists that it has none."""
        track, step_ms = self._tracks[symbol], self._interval_ms
        for attempt in range(1, _FILL_TRIES + 1):
            bars = await self._klines(symbol, start_ms=open_ms, end_ms=stop_ms)
            wanted = range(open_ms, stop_ms, step_ms)
            if [bar.open_ms for bar in bars] == list(wanted):
                break
            # A bar that has just closed may reach the REST side a moment later.
            await self._clock.sleep(_FILL_PAUSE_S * attempt)
        else:
            missing = len(wanted) - len(bars)
            _log.error(
                "bars missing at the venue", symbol=symbol, missing=missing, action="reported as a hole"
            )
        _log.info("gap filled", symbol=symbol, open_ms=open_ms, stop_ms=stop_ms, bars=len(bars))
        track.fill(bars, stop_ms=stop_ms)
        if not track.is_filling:
            self.watch.heard(self._kline(symbol))

    async def _klines(
        self, symbol: str, *, start_ms: int | None = None, end_ms: int | None = None, limit: int = 0
    ) -> list[Any]:
        reconnect = Reconnect(self._clock, self.client.random)
        while True:
            try:
                return await self.client.klines(symbol, self.settings.interval, start_ms, end_ms, limit)
            except ConnectionError as error:
                delay_s = reconnect.broke() or 0.0
                _log.warning("history is out of reach", symbol=symbol, reason=str(error), action="asks again")
                await self._clock.sleep(delay_s)

    # --- user ---------------------------------------------------------------------------------------

    async def _user_url(self) -> str:
        key = await self.client.new_listen_key()
        if self.settings.is_split:
            return f"{self._ws_url}/private/ws?listenKey={key}"
        return f"{self._ws_url}/ws/{key}"

    def _user_open(self) -> None:
        self._held = []
        self._spawn(self._catch_up())

    def _user_broke(self, broken: Break) -> None:
        self._held = None
        self.watch.told(USER_STREAM, broken.reason)

    async def _catch_up(self) -> None:
        """Tell what happened while nobody listened, then what came since, then that the stream is fresh."""
        held, ask = self._held, self._reconcile
        reconnect = Reconnect(self._clock, self.client.random)
        while ask is not None and held is not None and held is self._held:
            try:
                missed = await ask(self._heard_ms - round(_OVERLAP_S * 1000 * self._clock.speed))
            except BrokerageError as error:
                _log.warning("cannot reconcile", reason=str(error), action="asks again")
                await self._clock.sleep(reconnect.broke() or 0.0)
                continue
            if held is not self._held:
                return
            self._held = None
            self._heard_ms = self.client.now_ms()
            self._queue.put_all(missed)
            self._queue.put_all(held)
            self.watch.heard(USER_STREAM)

    def _take_user(self, body: bytes) -> None:
        if self.on_frame is not None:
            self.on_frame(body)
        for message in self.mapper.parse(body):
            if isinstance(message, Event):
                self._heard_ms = max(self._heard_ms, message.ts_ms)
                self._pass_on(message)
            elif isinstance(message, ListenKeyExpired):
                self._user.kick("the listenKey expired")
            else:
                if isinstance(message, MarginCalled):
                    _log.error("margin call", positions=str(message.positions), action="reduce or add margin")
                self._count(message)

    def _pass_on(self, event: Any) -> None:
        is_booked = isinstance(event, OrderFilled | FundingPaid | Transferred)
        if is_booked and self._venue is not None and not self._venue.note_streamed(event):
            return
        if self._held is not None:
            self._held.append(event)
        else:
            self._queue.put(event)

    def _count(self, message: Message) -> None:
        self.unused[getattr(message, "name", type(message).__name__)] += 1

    # --- keeping ------------------------------------------------------------------------------------

    async def _keep_key(self) -> None:
        while True:
            await self._clock.sleep(self.settings.renew_key_s / self._clock.speed)
            try:
                await self.client.renew_listen_key()
            except BinanceError as error:
                reason = "the listenKey is gone" if error.code == _KEY_GONE else str(error)
                self._user.kick(reason)
            except ConnectionError as error:
                _log.warning(
                    "listenKey not renewed", reason=str(error), action="tries again at the next turn"
                )

    async def _keep_clock(self) -> None:
        while True:
            wait_s = self.settings.clock_every_s
            try:
                checked = await self.client.sync_clock()
                self._queue.put(checked)
                if abs(checked.offset_ms) > self.settings.clock_limit_ms:
                    _log.warning(
                        "clock is off", offset_ms=checked.offset_ms, action="entries wait until it is right"
                    )
                    wait_s = min(wait_s, _CLOCK_AGAIN_S)
            except BrokerageError as error:
                _log.warning("clock not compared", reason=str(error), action="tries again")
            await self._clock.sleep(wait_s)

    async def _keep_watch(self) -> None:
        while True:
            await self._clock.sleep(_WATCH_EVERY_S)
            silent = self.watch.find_silent()
            if silent:
                self._market.kick(silent)
