"""The same candles through a live trader on the paper exchange, a dry run and a backtest."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    DecisionMade,
    IntentRecorded,
    PriceUpdated,
    SessionSetup,
    SessionStarted,
    TimerFired,
    Transferred,
)
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.order import UNSETTLED, OrderStatus
from qmtl.engine.backtest import Backtest
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.engine.engine import Engine
from qmtl.engine.live import LiveEngine
from qmtl.engine.loader import load_strategy
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.venue_models import UnlimitedLiquidity, VenueModels
from qmtl.runtime.io.binance_feed import BinanceFuturesFeed, FeedSettings
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.runtime.sdk.lowered import LOWERED, dump_lowered
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

PACE = 0.01
WALLET = Decimal(10_000)
FEES = MakerTakerFeeModel(Decimal("0.0002"), Decimal("0.0004"))
NEVER_S = 1e6
Decision = tuple[Any, ...]


class FollowClock:
    """The exchange's time; real time runs a hundred times as fast, so that sleeps are short."""

    speed = 1.0

    def __init__(self, leader: VirtualClock) -> None:
        self._leader = leader

    def now_ms(self) -> int:
        return self._leader.now_ms()

    def real_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000 / PACE

    async def sleep(self, real_s: float) -> None:
        await asyncio.sleep(real_s * PACE)


class ListFeed:
    """Events from a list; the driver is told when they are through."""

    def __init__(self, events: Iterable[AnyEvent]) -> None:
        self._events = events
        self.is_through = asyncio.Event()

    async def events(self) -> AsyncIterator[AnyEvent]:
        for event in self._events:
            yield event
            await asyncio.sleep(0)
        self.is_through.set()

    async def aclose(self) -> None:
        return None


MakeSetup = Callable[[Instrument], SessionSetup]


def make_setup(instrument: Instrument) -> SessionSetup:
    return SessionSetup(strategy="qmtl.trader.callback:Callback", instruments=(instrument,))


def lowered(reference: str) -> MakeSetup:
    """The setup of a strategy class: the same file on the same port in every driver."""
    source = load_source(reference)
    params = dump_lowered(source, make_strategy(source.cls), TradePlan())
    return lambda instrument: SessionSetup(strategy=LOWERED, params=params, instruments=(instrument,))


def decisions_of(journal: MemoryJournal) -> list[Decision]:
    """Every reason of a bar and every intent's fields, in order."""
    found: list[Decision] = []
    for event in journal.events:
        if isinstance(event, DecisionMade):
            found.append(("bar", event.open_ms, event.reason, event.gate))
        elif isinstance(event, IntentRecorded):
            found.append(("intent", event.client_order_id, *msgspec.structs.astuple(event.intent)))
    return found


class LockStep:
    """A live trader on a paper exchange; the next update comes only when every command was answered."""

    def __init__(self, candles: Path, start_ms: int, setup: MakeSetup = make_setup) -> None:
        self.make_setup = setup
        self.leader = VirtualClock(start_ms)
        self.clock = FollowClock(self.leader)
        self.paper = PaperExchange(
            PaperExchangeConfig(
                is_manual=True,
                markets=(MarketSettings(candles=candles),),
                liquidity=UnlimitedLiquidity(),
                fees=FEES,
                balance=WALLET,
                listen_key_ms=10**12,
            ),
            self.leader,
        )
        self.journal = MemoryJournal("parity")

    async def open(self) -> None:
        urls = await self.paper.start()
        self.client = BinanceFuturesClient(
            "paper", "paper", urls["rest"], clock=self.clock, random=SeededRandom(3)
        )
        info = await self.client.exchange_info()
        self.instrument = info.instruments["BTCUSDT"]
        self.venue = BinanceFuturesVenue(self.client, ["BTCUSDT"])
        self.setup = self.make_setup(self.instrument)
        self.engine = Engine(load_strategy(self.setup), self.journal)

        async def reconcile(since_ms: int) -> Sequence[AnyEvent]:
            return await self.venue.reconcile(since_ms, self.engine.orders.open())

        feed = BinanceFuturesFeed(
            self.client,
            FeedSettings(
                symbols=("BTCUSDT",),
                has_marks=False,
                kline_every_s=NEVER_S,
                clock_every_s=NEVER_S,
                renew_key_s=NEVER_S,
            ),
            ws_url=urls["ws"],
            venue=self.venue,
            reconcile=reconcile,
        )
        self.feed = feed
        now = self.clock.now_ms()
        self.engine.process(SessionStarted(now, "parity", "live", self.setup))
        self.live = LiveEngine(self.engine, self.journal, self.clock, [feed], venue=self.venue)
        self.task = asyncio.create_task(self.live.run())
        await self.until(
            lambda: (
                self.engine.state.has_account
                and not self.engine.state.risk.entry_bans.keys() - {"stale_feed:btcusdt@kline_1m"}
            )
        )

    async def run(self, updates: int) -> None:
        for seen in range(1, updates + 1):
            due_ms = self.paper.exchange.next_ms
            if due_ms is None:
                break
            # Time-outs that fall between two updates come before the second, as they do in a backtest.
            self.leader.set_now_ms(due_ms - 1)
            await self.until(self.is_settled)
            await self.paper.step()
            await self.until(self.has_seen(seen))

    def has_seen(self, updates: int) -> Callable[[], bool]:
        def is_so() -> bool:
            seen = sum(isinstance(event, BarClosed | PriceUpdated) for event in self.journal.events)
            return seen >= updates and self.is_settled()

        return is_so

    def is_settled(self) -> bool:
        """No time-out is due, nothing is on its way, and every order stands as it does at the exchange."""
        wakes = self.engine.state.wakes
        if wakes and wakes[0] <= self.clock.now_ms():
            return False
        account = self.paper.exchange.accounts["paper"]
        stated = {o.client_id for o in account.orders.values() if o.status in {"NEW", "PARTIALLY_FILLED"}}
        stated |= {algo.client_id for algo in account.open_algos("BTCUSDT")}
        for order in self.engine.orders.open():
            if order.status in UNSETTLED or order.status is OrderStatus.PENDING_CANCEL:
                return False
            if order.client_order_id not in stated:
                return False
        held = account.core.account.position("BTCUSDT").quantity
        return self.engine.account.position("BTCUSDT").quantity == held

    async def until(self, is_so: Callable[[], object], within_s: float = 60.0) -> None:
        end = asyncio.get_running_loop().time() + within_s
        while not is_so():
            assert not self.task.done(), self.task
            assert asyncio.get_running_loop().time() < end, (
                f"waited in vain; bans {self.engine.risk.entry_bans}"
            )
            await asyncio.sleep(0)

    async def close(self) -> None:
        await self.live.stop("done", wait_s=0.1)
        await self.task
        await self.client.aclose()
        await self.paper.stop()

    def market(self) -> list[AnyEvent]:
        """What the strategy was given, for the other two drivers."""
        return [event for event in self.journal.events if isinstance(event, BarClosed | PriceUpdated)]


def _make_simulation(setup: SessionSetup) -> tuple[Engine, MemoryJournal, SimulatedVenue]:
    journal = MemoryJournal("parity")
    engine = Engine(load_strategy(setup), journal)
    instrument = setup.instruments[0]
    core = MatchingCore(
        {"BTCUSDT": instrument}, models=VenueModels(fees=FEES), first_wallet=WALLET, leverage=20
    )
    return engine, journal, SimulatedVenue(core, fill="close")


def run_backtest(events: list[AnyEvent], setup: SessionSetup) -> tuple[Engine, MemoryJournal]:
    """The synchronous driver over what the live trader was given."""
    engine, journal, venue = _make_simulation(setup)
    backtest = Backtest(engine, venue)
    start_ms = events[0].ts_ms
    session = SessionStarted(start_ms, "parity", "backtest", setup)
    backtest.start(session, Transferred(start_ms, "USDT", WALLET))
    backtest.run(events)
    return engine, journal


async def run_dryrun(events: list[AnyEvent], setup: SessionSetup) -> tuple[Engine, MemoryJournal]:
    """The live driver with simulated fills over the same events; its clock shows each event's time."""
    engine, journal, venue = _make_simulation(setup)
    leader = VirtualClock(events[0].ts_ms - 1)
    clock = FollowClock(leader)
    start_ms = events[0].ts_ms
    engine.process(SessionStarted(start_ms, "parity", "dryrun", setup))
    engine.process(Transferred(start_ms, "USDT", WALLET))
    live: LiveEngine

    def timed() -> Iterable[AnyEvent]:
        for event in events:
            wakes = engine.state.wakes
            while wakes and wakes[0] <= event.ts_ms:
                live.take(TimerFired(wakes[0]))
                wakes = engine.state.wakes
            leader.set_now_ms(event.ts_ms)
            yield event

    feed = ListFeed(timed())
    live = LiveEngine(engine, journal, clock, [feed], matching=venue)
    task = asyncio.create_task(live.run())
    waiting = asyncio.create_task(feed.is_through.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    await live.stop("done", wait_s=0.0)
    await task
    return engine, journal
