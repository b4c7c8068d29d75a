"""The real-time trader: one account, one strategy, one venue, from start-up checks to a clean end."""

import asyncio
import contextlib
import signal
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple

import msgspec
import structlog
from yarl import URL

from qmtl.config import account_keys, account_name, load
from qmtl.core.event import TradingStateSet, Transferred
from qmtl.core.instrument import Instrument
from qmtl.core.order import BrokerageError
from qmtl.core.reason import TradingState
from qmtl.engine.backup import lock_path
from qmtl.engine.clock import SystemClock
from qmtl.engine.desk import Desk
from qmtl.engine.engine import Engine
from qmtl.engine.halt_marker import clear_marker, read_marker
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.live import LiveEngine, Observer, check_reach
from qmtl.engine.loader import load_strategy
from qmtl.engine.owner import AccountLock
from qmtl.engine.ports import Clock, Random, Venue
from qmtl.engine.replay import recover
from qmtl.engine.tap import TappedJournal
from qmtl.engine.venue_models import VenueModels
from qmtl.runtime.io.binance_feed import BinanceFuturesFeed, History
from qmtl.runtime.io.binance_futures import PRODUCTION_URL, BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.lowered import LOWERED
from qmtl.settings import Settings
from qmtl.trader.callback import Callback
from qmtl.trader.checkpoint import Checkpoint
from qmtl.trader.collector import Collector, make_collectors
from qmtl.trader.prelim import Prelim, SetupRefusedError
from qmtl.trader.session import (
    BOLLINGER,
    Domain,
    Plain,
    bollinger_params,
    check_consents,
    check_symbol,
    feed_settings,
    find_loop_factory,
    has_venue_fills,
    keep_backups,
    make_setup,
    make_start,
    make_venue,
    refill_candles,
    simulate_venue,
)

_log = structlog.get_logger("qmtl.trader")


class Parts(NamedTuple):
    """The driver, what people see of it, the streams, and the journal whose listeners hear every event."""

    live: LiveEngine
    desk: Desk
    feed: BinanceFuturesFeed
    tap: TappedJournal


class RealTimeTrader:
    """Trades `config` (qmtl.yml as loaded) until it is stopped; `dryrun` unless `domain` says live.

    `open` checks everything and recovers the journal; `run` trades; `stop` ends it cleanly. `desk` is what
    the control port needs. `typed_account` is the account's name as somebody typed it, for live; `symbols`
    what is traded, `trader.symbol` where not given; `wallet` the first balance where fills are simulated;
    `collects` feeds the published collectors beside the engine, at some cost a message; `history` brings the
    warm-up in place of the venue.
    """

    def __init__(
        self,
        config: Settings | None = None,
        *,
        domain: Domain = "dryrun",
        typed_account: str | None = None,
        strategy: str = BOLLINGER,
        params: Mapping[str, Plain] | None = None,
        symbols: tuple[str, ...] = (),
        clock: Clock | None = None,
        random: Random | None = None,
        journal: Path | None = None,
        wallet: Decimal = Decimal(10_000),
        models: VenueModels | None = None,
        observer: Observer | None = None,
        run_id: str = "",
        collects: bool = False,
        history: History | None = None,
    ) -> None:
        self.config = config = load() if config is None else config
        self.domain: Domain = domain
        check_consents(config, domain, typed_account)
        self.account = account_name(config)
        self.journal_path = journal or config.journal.path or config.journal.directory / f"{self.account}.db"
        self.symbols = symbols or (config.trader.symbol,)
        self.symbol = self.symbols[0]
        self.clock = clock or SystemClock()
        self.random: Random = random or SystemRandom()
        self.has_venue = has_venue_fills(config, domain)
        self._strategy = strategy
        self._params = dict(params) if params is not None else bollinger_params(config)
        self._wallet, self._models, self._observer, self._run_id = wallet, models, observer, run_id
        if config.account.position_mode == "hedge" and strategy in {BOLLINGER, LOWERED}:
            raise SetupRefusedError("account.position_mode: strategies trade one_way")
        api_key, secret = account_keys(config) or ("", "")
        self.client = BinanceFuturesClient(
            api_key, secret, config.account.base_url, clock=self.clock, random=self.random
        )
        self.prelim = Prelim(self.client, self.symbol, ws_url=config.account.ws_url)
        self.collectors: dict[str, Collector] = {}
        self._collects, self._history = collects, history
        self._lock = AccountLock(
            lock_path(self.journal_path), account=self.account, started_ms=self.clock.now_ms()
        )
        self._journal: SqliteJournal | None = None
        self._checkpoint: Checkpoint | None = None
        self._venue: Venue | None = None
        self._is_proven = False
        self._is_stopping = False
        self._refills: set[asyncio.Task[None]] = set()
        self._parts: Parts | None = None

    # --- parts -----------------------------------------------------------------------------------------

    @property
    def parts(self) -> Parts:
        """What `open` put together; RuntimeError before it did."""
        if self._parts is None:
            raise RuntimeError("the trader is not open: await open() first")
        return self._parts

    @property
    def engine(self) -> Engine:
        """The engine, once open."""
        return self.parts.live.engine

    @property
    def desk(self) -> Desk:
        """The `Controlled` of the control port, once open."""
        return self.parts.desk

    # --- opening ---------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Check, take the account, recover the journal and start the session; nothing is sent yet.

        Raises SetupRefusedError for what a restart will not change and BrokerageError for what it may;
        then nothing is open. With a position in the journal an unreachable venue is no error: the trader
        starts not ready and keeps trying.
        """
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise

    async def _open(self) -> None:
        found = self._open_journal() if self.journal_path.exists() else None
        instruments = await self._check(found[1] if found is not None else None)
        journal, recovered = found or self._open_journal()
        tap = TappedJournal(journal)
        setup = make_setup(
            self.config,
            instruments,
            strategy=self._strategy,
            params=self._params,
            has_venue=self.has_venue,
        )
        engine = recovered or Engine(load_strategy(setup), tap)
        engine.attach(tap)
        venue = None
        if self.has_venue:
            venue = make_venue(self.config, self.client, self.domain, engine, self.symbols)
        self._venue = venue
        matching = (
            None
            if self.has_venue
            else simulate_venue(
                engine, self.config, instruments, journal.seq, models=self._models, wallet=self._wallet
            )
        )
        retention_days = self.config.journal.retention_days
        self._checkpoint = checkpoint = Checkpoint(journal, engine, self.clock, retention_days)
        live_feeds: list[BinanceFuturesFeed] = []
        live = LiveEngine(
            engine,
            tap,
            self.clock,
            live_feeds,
            venue=venue,
            matching=matching,
            observer=self._observer,
            checkpoint=checkpoint.take,
        )
        desk = Desk(
            live,
            tap,
            account=self.account,
            journal=self.journal_path,
            leverage=self.config.account.leverage,
            more=self._describe_process,
        )
        now_ms = self.clock.now_ms()
        start = make_start(setup, self.clock, epoch=journal.epoch, domain=self.domain, run_id=self._run_id)
        live.begin(start, load_strategy)
        if not self.has_venue and not engine.state.has_account:
            live.take(Transferred(now_ms, self.config.account.asset, self._wallet, "first balance"))
        self._obey_marker(live)
        live_feeds.append(feed := self._make_feed(engine, venue))
        self._parts = Parts(live, desk, feed, tap)
        if self._collects:
            await self._collect(engine, feed)

    def _open_journal(self) -> tuple[SqliteJournal, Engine | None]:
        self._lock.acquire()
        epoch = self.random.randbytes(8).hex()
        self._journal = journal = SqliteJournal(
            self.journal_path, epoch, account=self.account, opened_ms=self.clock.now_ms()
        )
        recovered = recover(journal, load_strategy)
        if recovered is not None and recovered.state.domain != self.domain:
            raise SetupRefusedError(
                f"{self.journal_path} is a journal of domain {recovered.state.domain}, not of {self.domain}:"
                " set journal.path to another file"
            )
        return journal, recovered

    async def _check(self, recovered: Engine | None) -> tuple[Instrument, ...]:
        """Return the instruments, checked at the venue, or the recorded ones while it is out of reach."""
        try:
            return await self._ask_venue()
        except BrokerageError as error:
            setup = None if recovered is None else recovered.state.setup
            held = recovered is not None and any(p.quantity for p in recovered.account.positions.values())
            if setup is None or not held:
                raise
            self._alarm(error)
            return setup.instruments

    async def _ask_venue(self) -> tuple[Instrument, ...]:
        await self.client.verify_reach()
        if self.has_venue:
            check_reach(self.domain, "venue", self.client.reach)
        others = [Prelim(self.client, symbol) for symbol in self.symbols[1:]]
        checks = [check_symbol(one, self.config, self.domain) for one in (self.prelim, *others)]
        instruments = tuple([await check for check in checks])
        self._is_proven = True
        return instruments

    def _alarm(self, error: BrokerageError) -> None:
        _log.error("venue out of reach", reason=str(error), action="a position is open: keeps trying")
        if self._observer is not None:
            self._observer.on_alert("venue_unreachable", str(error))

    def _make_feed(self, engine: Engine, venue: Venue | None) -> BinanceFuturesFeed:
        async def reconcile(since_ms: int) -> Any:
            return () if venue is None else await venue.reconcile(since_ms, engine.orders.open())

        return BinanceFuturesFeed(
            self.client,
            feed_settings(self.config, engine, self.symbols),
            ws_url=self.config.account.ws_url,
            venue=venue if isinstance(venue, BinanceFuturesVenue) else None,
            reconcile=None if venue is None else reconcile,
            history=self._history,
        )

    def _obey_marker(self, live: LiveEngine) -> None:
        """Begin halted where somebody halted the account while no trader ran."""
        marker = read_marker(self.journal_path)
        if marker is not None and self._journal is not None:
            halted = TradingStateSet(self.clock.now_ms(), TradingState.HALTED, marker.who, marker.why)
            live.take(halted)
            self._journal.commit()
            clear_marker(self.journal_path)

    # --- running ---------------------------------------------------------------------------------------

    async def run(self, for_s: float | None = None) -> None:
        """Trade until `stop`, or for `for_s` real seconds; opens first where that was not done.

        Raises what ended it otherwise. Everything is closed when this returns.
        """
        if self._parts is None:
            await self.open()
        work = {asyncio.ensure_future(keep_backups(self.config.journal, self.journal_path, self.clock))}
        try:
            await self._prove()
            driver = asyncio.ensure_future(self.parts.live.run())
            work.add(driver)
            if for_s is not None:
                timer = asyncio.ensure_future(self.clock.sleep(for_s))
                work.add(timer)
                await asyncio.wait({driver, timer}, return_when=asyncio.FIRST_COMPLETED)
                if not driver.done():
                    await self.stop(f"ran for {for_s:g} s")
            await driver
        finally:
            for task in (*work, *self._refills):
                task.cancel()
            await asyncio.gather(*work, *self._refills, return_exceptions=True)
            await self.aclose()

    async def stop(self, why: str = "stopped") -> None:
        """Take no more entries, cancel open entry orders, leave protective orders, and end `run`."""
        self._is_stopping = True
        await self.parts.live.stop(why)

    def trade(self, for_s: float | None = None) -> None:
        """Open and run on an event loop of its own until Ctrl-C; a second Ctrl-C leaves at once."""
        with asyncio.Runner(loop_factory=find_loop_factory()) as runner:
            runner.run(self._trade(for_s))

    async def _trade(self, for_s: float | None) -> None:
        loop, stops = asyncio.get_running_loop(), set()

        def interrupt() -> None:
            loop.remove_signal_handler(signal.SIGINT)
            stops.add(loop.create_task(self.stop("interrupted")))

        await self.open()
        loop.add_signal_handler(signal.SIGINT, interrupt)
        try:
            await self.run(for_s)
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    async def _prove(self) -> None:
        """Before orders may go to a host that only an answer can prove, wait for that answer."""
        reconnect = Reconnect(self.clock, self.random)
        is_known = not self.has_venue or self.client.base_url.host == URL(PRODUCTION_URL).host
        while not (is_known or self._is_proven or self._is_stopping):
            try:
                await self._ask_venue()
            except BrokerageError as error:
                self._alarm(error)
                await self.clock.sleep(reconnect.broke() or 1.0)

    async def aclose(self) -> None:
        """Close connections and the journal, and give the account back; a second time does nothing."""
        if self._venue is not None:
            await self._venue.aclose()
        await self.client.aclose()
        if self._checkpoint is not None:
            await self._checkpoint.aclose()
        journal, self._journal = self._journal, None
        if journal is not None:
            with contextlib.suppress(BrokerageError):
                journal.close()
        self._lock.release()

    def _describe_process(self) -> dict[str, Any]:
        feed, client = self.parts.feed, self.client
        return {
            "symbol": self.symbol,
            "stream_ages_s": {name: age for name, (age, _) in feed.watch.ages_s().items()},
            "conflated": feed.conflated,
            "reconnects": feed.reconnects,
            "weight_share": client.weight_share,
            "reach": client.reach if self.has_venue else "memory",
        }

    # --- collectors ------------------------------------------------------------------------------------

    async def _collect(self, engine: Engine, feed: BinanceFuturesFeed) -> None:
        interval = self.config.trader.interval
        streams = await self.prelim.getInfo_streams_async(self.symbol, "markPrice1s", f"kline{interval}")
        candles = await self.prelim.getData_OHLCV_async(interval)

        def refill(begin_ms: int, end_ms: int) -> None:
            work = refill_candles(self.prelim, self.collectors["kline"], interval, begin_ms, end_ms)
            self._refills.add(asyncio.ensure_future(work))

        self.collectors = make_collectors(streams, candles, onGap=refill)
        callback = engine.strategy if isinstance(engine.strategy, Callback) else Callback()
        callback.collectors = self.collectors
        decode = msgspec.json.decode
        feed.on_frame = lambda body: callback.callback(decode(body))
