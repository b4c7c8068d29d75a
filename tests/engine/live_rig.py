"""A running trader in memory: the live driver, a venue that answers as told, a feed, a virtual clock."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from decimal import Decimal as D

from qmtl.core import event as ev
from qmtl.core.order import DONE, BrokerageError, Order, OrderStatus
from qmtl.engine.clock import VirtualClock
from qmtl.engine.engine import Engine
from qmtl.engine.journal import JournalError
from qmtl.engine.live import LiveEngine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import Reach
from tests.engine.rig import Scripted, instrument

START = 1_000_000_000


class WatchedJournal(MemoryJournal):
    """Knows what was durable at any moment, and can be full."""

    def __init__(self) -> None:
        super().__init__("epoch")
        self.durable = 0
        self.commits = 0
        self.is_full = False

    def commit(self) -> None:
        if self.is_full:
            raise JournalError("journal.db: database or disk is full")
        self.commits += 1
        self.durable = len(self.events)

    def has_durable(self, order: Order) -> bool:
        return any(
            isinstance(event, ev.IntentRecorded) and event.client_order_id == order.client_order_id
            for event in self.events[: self.durable]
        )


class FakeVenue:
    """Holds orders; time and faults are the test's: `answers` are taken in turn, then all is well."""

    reach: Reach = "sandbox"

    def __init__(self, clock: VirtualClock, journal: WatchedJournal) -> None:
        self.clock = clock
        self.journal = journal
        self.book: dict[str, Order] = {}
        self.log: list[str] = []
        self.delay_s = 0.0
        self.faults: dict[str, list[str]] = {"submit": [], "cancel": [], "settle": [], "reconcile": []}
        self.fills: list[ev.OrderFilled] = []
        self.asked_since: list[int] = []
        self.asked_orders: list[list[str]] = []
        self.position = D(0)
        self.wallet = D(1000)
        self.is_closed = False

    async def _meet(self, call: str) -> str:
        self.log.append(call)
        fault = self.faults[call].pop(0) if self.faults[call] else ""
        if self.delay_s:
            await self.clock.sleep(self.delay_s)
        if fault == "never":
            await asyncio.get_running_loop().create_future()
        if fault == "brokerage":
            raise BrokerageError("the venue said something else")
        if fault == "bug":
            raise ZeroDivisionError("a bug in the venue")
        return fault

    async def submit(self, order: Order) -> Sequence[ev.AnyEvent]:
        assert self.journal.has_durable(order), "sent before it was durable"
        fault = await self._meet("submit")
        key, now = order.client_order_id, self.clock.now_ms()
        if fault == "reject":
            return [ev.OrderRejected(now, key, "-2019")]
        if fault != "lost":
            assert key not in self.book, "the venue got it twice"
            self.book[key] = order
        if fault in {"lost", "timeout"}:
            return [ev.OrderUnsettled(now, key, "timeout")]
        return [ev.OrderAccepted(now, key, f"v{len(self.book)}")]

    async def cancel(self, order: Order) -> Sequence[ev.AnyEvent]:
        fault = await self._meet("cancel")
        key, now = order.client_order_id, self.clock.now_ms()
        if fault == "reject":
            return [ev.CancelRejected(now, key, "timeout")]
        self.book.pop(key, None)
        return [ev.OrderCanceled(now, key)]

    async def settle(self, order: Order) -> Sequence[ev.AnyEvent]:
        await self._meet("settle")
        return self._news([order])

    async def reconcile(self, since_ms: int, orders: Sequence[Order]) -> Sequence[ev.AnyEvent]:
        self.asked_since.append(since_ms)
        self.asked_orders.append([order.client_order_id for order in orders])
        await self._meet("reconcile")
        missed = [fill for fill in self.fills if fill.ts_ms >= since_ms]
        return [*missed, *self._news(orders), await self.account()]

    async def account(self) -> ev.AccountReconciled:
        now = self.clock.now_ms()
        reports = tuple(
            ev.OrderReport(
                key, "v", "BTCUSDT", OrderStatus.ACCEPTED, order.intent.side, order.intent.quantity
            )
            for key, order in self.book.items()
        )
        held = (ev.PositionReport("BTCUSDT", self.position, D(60000)),) if self.position else ()
        return ev.AccountReconciled(now, reports, (ev.BalanceReport("USDT", self.wallet),), held)

    async def aclose(self) -> None:
        self.is_closed = True

    def _news(self, orders: Sequence[Order]) -> list[ev.AnyEvent]:
        now = self.clock.now_ms()
        traded = {fill.client_order_id for fill in self.fills}
        return [
            ev.OrderAccepted(now, order.client_order_id, "v")
            if order.client_order_id in self.book
            else ev.OrderRejected(now, order.client_order_id, "absent")
            for order in orders
            if order.status in {OrderStatus.SUBMITTED, OrderStatus.UNKNOWN}
            and order.client_order_id not in traded
        ]


class QueueFeed:
    """Yields what the test puts in; None ends it, an exception is raised."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[ev.AnyEvent | BaseException | None] = asyncio.Queue()
        self.is_closed = False

    async def events(self) -> AsyncIterator[ev.AnyEvent]:
        while (event := await self.queue.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event

    async def aclose(self) -> None:
        self.is_closed = True


class Watcher:
    """Counts what an observer is told."""

    def __init__(self) -> None:
        self.alerts: list[str] = []
        self.answered: list[float] = []

    def on_decided(self, real_ms: float) -> None: ...

    def on_committed(self, real_ms: float) -> None: ...

    def on_answered(self, real_ms: float) -> None:
        self.answered.append(real_ms)

    def on_alert(self, code: str, detail: str) -> None:
        self.alerts.append(code)


class LiveRig:
    """Everything wired, started and reconciled."""

    def __init__(self, *, speed: float = 1.0, stop: str | None = None) -> None:
        self.clock = VirtualClock(START, speed)
        self.journal = WatchedJournal()
        self.venue = FakeVenue(self.clock, self.journal)
        self.feed = QueueFeed()
        self.watcher = Watcher()
        self.strategy = Scripted()
        self.checkpoints = 0
        self.setup = ev.SessionSetup(
            strategy="scripted",
            instruments=(instrument(),),
            catastrophe_stop=None if stop is None else D(stop),
            needs_reconcile=True,
        )
        self.engine = Engine(self.strategy, self.journal)
        self.live = LiveEngine(
            self.engine,
            self.journal,
            self.clock,
            [self.feed],
            venue=self.venue,
            observer=self.watcher,
            checkpoint=self._checkpoint,
        )
        self.task: asyncio.Task[None] | None = None

    def _checkpoint(self) -> None:
        self.checkpoints += 1

    async def start(self) -> None:
        self.live.begin(
            ev.SessionStarted(START, "epoch", "live", self.setup, self.clock.speed), lambda _: self.strategy
        )
        self.task = asyncio.create_task(self.live.run())
        await self.clock.advance(3)
        assert self.live.ready() == (True, [])
        self.venue.log.clear()

    async def price(self, price: float = 60_000.0) -> None:
        now = self.clock.now_ms()
        await self.feed.queue.put(
            ev.PriceUpdated(now, "BTCUSDT", now // 60_000 * 60_000, price, price, price, price, 1.0)
        )
        await self.clock.advance(0.001)

    async def do(self, act: Callable[..., object]) -> None:
        """Let the strategy act once, at a price."""
        self.strategy.at_price = lambda ctx, _: act(ctx)
        await self.price()
        self.strategy.at_price = None

    async def fill(self, order: Order) -> None:
        fill = ev.OrderFilled(
            self.clock.now_ms(),
            order.client_order_id,
            f"t{len(self.venue.fills)}",
            "BTCUSDT",
            order.intent.side,
            order.intent.quantity,
            D(60000),
            D(0),
            "USDT",
        )
        self.venue.fills.append(fill)
        self.venue.book.pop(order.client_order_id, None)
        self.venue.position += order.intent.quantity if order.intent.side == "BUY" else -order.intent.quantity
        await self.feed.queue.put(fill)
        await self.clock.advance(0.001)

    def orders(self) -> list[Order]:
        return list(self.engine.risk.working.values())

    def all_orders(self) -> list[Order]:
        return [*self.engine.orders.open(), *self.engine.state.finished.values()]

    async def stop(self) -> None:
        assert self.task is not None
        if not self.task.done():
            stopping = asyncio.create_task(self.live.stop("test over"))
            for _ in range(400):
                if self.task.done():
                    break
                await self.clock.advance(0.05)
            await stopping
        await self.task


def is_open(order: Order) -> bool:
    return order.status not in DONE
