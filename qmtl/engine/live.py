"""The asynchronous driver: feeds and a venue around one engine, in real or scaled time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from qmtl.core.command import CancelOrder, Command, RequestReconcile, SubmitOrder
from qmtl.core.event import (
    AnyEvent,
    CancelRejected,
    EntriesPaused,
    FeedStateChanged,
    OrderUnsettled,
    SessionStarted,
    TimerFired,
)
from qmtl.core.interval import DAY_MS
from qmtl.core.order import BrokerageError, DomainViolation, Order, OrderStatus
from qmtl.engine.engine import Engine
from qmtl.engine.ports import Clock, EventJournal, Feed, MatchingVenue, Reach, Venue
from qmtl.engine.replay import Build, begin_session

COMMIT_EVERY_MS = 100.0
"""Events that led to no intent wait at most so long for their group."""

TIMER_EVERY_S = 0.05
HEARTBEAT_MS = 250.0
SETTLE_EVERY_S = 2.0
RECONCILE_PAUSE_S = 1.0
RECONCILE_PAUSE_MAX_S = 30.0
UNANSWERED_S = 10.0
"""A submit without any answer for so long counts as unsettled; venues have time-outs of their own below."""

SNAPSHOT_EVERY = 50_000
"""Events between snapshots on a busy day; a quiet day has one."""

FILL_OVERLAP_MS = 60_000
LOOP_LIMIT_MS = 5_000.0

_UNKNOWN = OrderStatus.UNKNOWN
_SUBMITTED = OrderStatus.SUBMITTED


class Observer(Protocol):
    """Whoever measures a running trader; every method returns at once."""

    def on_decided(self, real_ms: float) -> None:
        """An event was folded and its commands were known after `real_ms`."""

    def on_committed(self, real_ms: float) -> None:
        """The journal was made durable in `real_ms`."""

    def on_answered(self, real_ms: float) -> None:
        """The venue answered a submit after `real_ms`."""

    def on_alert(self, code: str, detail: str) -> None:
        """People should know."""


def check_reach(domain: str, fills: str, reach: Reach) -> None:
    """Raise DomainViolation unless `domain` with `fills` (simulated, venue) may use a venue of `reach`."""
    allowed: tuple[Reach, ...] = ("memory",)
    if domain == "live":
        allowed = ("live", "sandbox")
    elif domain == "dryrun" and fills == "venue":
        allowed = ("sandbox",)
    if reach not in allowed:
        message = f"domain {domain} with fills {fills} cannot reach a {reach} venue"
        raise DomainViolation(message)


class LiveEngine:
    """Runs one engine: takes events as they come, commits before it sends, keeps time-outs alive.

    Exactly one of `venue` (orders leave the process) and `matching` (fills are simulated on the live data)
    is given. Everything runs on one event loop; `take` is synchronous, so no two events interleave.
    What people see of it is `engine.board.Board`, a listener of the engine's `engine.tap.TappedJournal`.
    """

    def __init__(
        self,
        engine: Engine,
        journal: EventJournal,
        clock: Clock,
        feeds: Sequence[Feed],
        *,
        venue: Venue | None = None,
        matching: MatchingVenue | None = None,
        observer: Observer | None = None,
        checkpoint: Callable[[], None] | None = None,
    ) -> None:
        """Wire the parts; `checkpoint` stores a snapshot and is called now and then between events."""
        if (venue is None) == (matching is None):
            message = "give exactly one of venue and matching"
            raise ValueError(message)
        self.engine = engine
        self.clock = clock
        self.reconnects = 0
        self._journal = journal
        self._feeds = feeds
        self._venue = venue
        self._matching = matching
        self._observer = observer
        self._checkpoint = checkpoint
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_flight: dict[str, asyncio.Task[None]] = {}
        self._stopping = asyncio.Event()
        self._reconcile_why = ""
        self._reconciling = False
        self._since_ms = 0
        self._is_ended = False
        self._committed_ms = clock.real_ms()
        self._turned_ms = clock.real_ms()
        self._heartbeat_ms = clock.real_ms()
        self._since_snapshot = 0
        self._day = clock.now_ms() // DAY_MS
        self._failure: BaseException | None = None

    # --- events ------------------------------------------------------------------------------------

    def begin(self, event: SessionStarted, build: Build) -> None:
        """Start the session: `build` makes a fresh strategy where its parameters changed."""
        self._obey(begin_session(self.engine, event, build))

    def take(self, event: AnyEvent) -> None:
        """Process one event now: fold it, make its decisions durable, send them."""
        matching = self._matching
        if matching is not None:
            for caused in matching.on_market(event):
                self._process(caused)
        self._process(event)

    def _process(self, event: AnyEvent) -> None:
        observer = self._observer
        start = self.clock.real_ms() if observer is not None else 0.0
        commands = self.engine.process(event)
        self._since_snapshot += 1
        if not commands:
            return
        if observer is not None:
            observer.on_decided(self.clock.real_ms() - start)
        self._obey(commands)

    def _obey(self, commands: tuple[Command, ...]) -> None:
        self._commit()
        for command in commands:
            self._carry_out(command)

    def _commit(self) -> None:
        start = self.clock.real_ms()
        try:
            self._journal.commit()
        except BrokerageError as error:
            # What was decided is not durable and will not be sent: going on would trade on orders that
            # do not exist.
            self._fail(error)
            raise
        self._committed_ms = self.clock.real_ms()
        if self._observer is not None:
            self._observer.on_committed(self._committed_ms - start)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, SubmitOrder):
            self._submit(command.order)
        elif isinstance(command, CancelOrder):
            self._cancel(command.order)
        elif isinstance(command, RequestReconcile):
            self._request_reconcile(command.why)
        elif self._observer is not None:
            self._observer.on_alert(command.code, command.detail)

    def _request_reconcile(self, why: str) -> None:
        if self._venue is None:
            return
        if not self._reconcile_why:
            # Fixed now: a fill that comes before the question is asked must not hide older ones.
            state = self.engine.state
            known_ms = state.fills_ms - int(FILL_OVERLAP_MS * self.clock.speed)
            # Fills before the first statement are part of it and must not be booked again.
            self._since_ms = max(known_ms, state.adopted_ms) if state.fills_ms else self.clock.now_ms()
        self._reconcile_why = why or "asked"

    def _submit(self, order: Order) -> None:
        if self._matching is not None:
            self._take_all(self._matching.submit(order, self.engine.risk.now_ms))
        elif self._venue is not None:
            key = order.client_order_id
            self._in_flight[key] = task = self._spawn(self._send(self._venue, order))
            task.add_done_callback(lambda _: self._in_flight.pop(key, None))

    def _cancel(self, order: Order) -> None:
        if self._matching is not None:
            self._take_all(self._matching.cancel(order, self.engine.risk.now_ms))
        elif self._venue is not None:
            self._spawn(self._recall(self._venue, order))

    async def _send(self, venue: Venue, order: Order) -> None:
        start = self.clock.real_ms()
        try:
            events = await venue.submit(order)
        except BrokerageError as error:
            events = [OrderUnsettled(self.clock.now_ms(), order.client_order_id, _text(error))]
        self._take_all(events)
        if self._observer is not None:
            self._observer.on_answered(self.clock.real_ms() - start)

    async def _recall(self, venue: Venue, order: Order) -> None:
        try:
            events = await venue.cancel(order)
        except BrokerageError as error:
            events = [CancelRejected(self.clock.now_ms(), order.client_order_id, _text(error))]
        self._take_all(events)

    def _take_all(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            self._process(event)

    # --- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`; raises what stopped it when that was not asked for."""
        drivers = [self._spawn(self._drain(feed)) for feed in self._feeds]
        drivers.append(self._spawn(self._keep_time()))
        if self._venue is not None:
            drivers.append(self._spawn(self._keep_reconciled(self._venue)))
        try:
            await self._stopping.wait()
        finally:
            self._is_ended = True
            for task in list(self._tasks):
                task.cancel()
            for feed in self._feeds:
                await feed.aclose()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failure is not None:
            raise self._failure
        self._commit()
        if self._checkpoint is not None:
            self._checkpoint()

    async def stop(self, why: str, wait_s: float = 5.0) -> None:
        """Take no more entries, cancel open entry orders, leave protection, then end `run`.

        Entries that are still open and orders still unanswered are waited for up to `wait_s`.
        """
        if not self._stopping.is_set() and self._failure is None:
            self.take(EntriesPaused(self.clock.now_ms(), why))
            deadline = self.clock.real_ms() + wait_s * 1000
            while (self._in_flight or self._entries_working()) and self.clock.real_ms() < deadline:
                await self.clock.sleep(0.02)
        self._stopping.set()

    def post(self, event: AnyEvent) -> None:
        """Take an event from outside the feeds: control, tests."""
        self.take(event)

    def _entries_working(self) -> bool:
        return any(o.intent.role == "entry" for o in self.engine.risk.working.values())

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A driver that dies silently would leave positions unwatched: stop, and let `run` raise it.
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
        self._stopping.set()

    async def _drain(self, feed: Feed) -> None:
        async for event in feed.events():
            self.take(event)
        if self._venue is not None and not self._stopping.is_set():
            # Nobody else would notice that this process has gone blind.
            name = type(feed).__name__
            self.take(FeedStateChanged(self.clock.now_ms(), name, is_fresh=False, reason="the feed ended"))

    async def _keep_time(self) -> None:
        clock = self.clock
        while True:
            await clock.sleep(TIMER_EVERY_S)
            now = clock.real_ms()
            self._turned_ms = now
            wakes = self.engine.state.wakes
            is_due = bool(wakes) and wakes[0] <= clock.now_ms()
            if is_due or (self.engine.needs_timer and now - self._heartbeat_ms >= HEARTBEAT_MS):
                self._heartbeat_ms = now
                self.take(TimerFired(clock.now_ms()))
            if now - self._committed_ms >= COMMIT_EVERY_MS:
                self._commit()
            day = clock.now_ms() // DAY_MS
            if self._checkpoint is not None and (self._since_snapshot >= SNAPSHOT_EVERY or day != self._day):
                self._since_snapshot, self._day = 0, day
                self._checkpoint()

    async def _keep_reconciled(self, venue: Venue) -> None:
        clock = self.clock
        # The first look comes at once: what a process before this one was sending is owed an end.
        settled_ms = clock.real_ms() - SETTLE_EVERY_S * 1000
        pause_s = RECONCILE_PAUSE_S
        next_ms = 0.0
        while True:
            await clock.sleep(TIMER_EVERY_S)
            if self._reconcile_why and clock.real_ms() >= next_ms:
                await self._reconcile(venue)
                next_ms = clock.real_ms() + pause_s * 1000
                # A venue that keeps answering half must not be asked every second for ever.
                pause_s = (
                    min(RECONCILE_PAUSE_MAX_S, pause_s * 2) if self._reconcile_why else RECONCILE_PAUSE_S
                )
            if clock.real_ms() - settled_ms >= SETTLE_EVERY_S * 1000:
                settled_ms = clock.real_ms()
                await self._settle(venue)

    async def _reconcile(self, venue: Venue) -> None:
        why, self._reconcile_why = self._reconcile_why, ""
        since_ms = self._since_ms
        self._reconciling = True
        # An order still on its way is neither at the venue nor absent.
        orders = [o for o in self.engine.orders.open() if o.client_order_id not in self._in_flight]
        try:
            self._take_all(await venue.reconcile(since_ms, orders))
        except BrokerageError as error:
            self._reconcile_why = _text(error)
            self._since_ms = since_ms
            if self._observer is not None:
                self._observer.on_alert("reconcile_failed", f"{why}: {self._reconcile_why}")
        finally:
            self._reconciling = False

    async def _settle(self, venue: Venue) -> None:
        now_ms, limit_ms = self.clock.now_ms(), UNANSWERED_S * 1000 * self.clock.speed
        for order in self.engine.orders.open():
            if order.status is not _SUBMITTED:
                continue
            key = order.client_order_id
            task = self._in_flight.get(key)
            if task is None:
                self._process(OrderUnsettled(now_ms, key, "the process that was sending it is gone"))
            elif now_ms - order.updated_ms >= limit_ms:
                task.cancel()
                self._process(OrderUnsettled(now_ms, key, f"no answer for {UNANSWERED_S:.0f} s"))
        unknown = [o for o in self.engine.orders.open() if o.status is _UNKNOWN]
        # Side by side: each proof of absence takes seconds, and a position may wait for its stop.
        await asyncio.gather(
            *(self._settle_one(venue, o) for o in unknown if o.client_order_id not in self._in_flight)
        )

    async def _settle_one(self, venue: Venue, order: Order) -> None:
        try:
            self._take_all(await venue.settle(order))
        except BrokerageError as error:
            if self._observer is not None:
                self._observer.on_alert("settle_failed", f"{order.client_order_id}: {_text(error)}")

    # --- health ------------------------------------------------------------------------------------

    @property
    def loop_age_s(self) -> float:
        """Real seconds since the loop last turned."""
        return (self.clock.real_ms() - self._turned_ms) / 1000

    def health(self) -> tuple[bool, str]:
        """Tell whether the loop turned within 5 s."""
        late = self.loop_age_s * 1000
        return late < LOOP_LIMIT_MS, f"loop turned {late:.0f} ms ago"

    def ready(self) -> tuple[bool, list[str]]:
        """Tell whether entries could be taken, and what stands against it."""
        risk = self.engine.risk
        reasons = list(risk.entry_bans.values())
        reasons += [f"{symbol}: {why}" for symbol, why in risk.blocked.items()]
        if self._reconcile_why or self._reconciling:
            reasons.append(f"reconciling: {self._reconcile_why or 'running'}")
        return not reasons, reasons


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
