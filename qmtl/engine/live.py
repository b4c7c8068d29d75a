"""The asynchronous driver: feeds and a venue around one engine, in real or scaled time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from qmtl.core.event import (
    AnyEvent,
    CancelOrder,
    Command,
    EntriesPaused,
    OrderFilled,
    RequestReconcile,
    SubmitOrder,
    TimerFired,
)
from qmtl.core.order import BrokerageError, Order, OrderStatus
from qmtl.engine.engine import Engine
from qmtl.engine.ports import Clock, EventJournal, Feed, MatchingVenue, Reach, Venue

COMMIT_EVERY_MS = 100.0
"""Events that led to no intent wait at most so long for their group."""

TIMER_EVERY_S = 0.05
HEARTBEAT_MS = 250.0
SETTLE_EVERY_S = 2.0
RECONCILE_PAUSE_S = 1.0
SNAPSHOT_EVERY = 50_000
FILL_OVERLAP_MS = 60_000
LOOP_LIMIT_MS = 5_000.0

_UNKNOWN = OrderStatus.UNKNOWN


class DomainViolation(BrokerageError):  # noqa: N818 - a published name
    """The domain of this run may not reach that venue."""


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
        self._stopping = asyncio.Event()
        self._reconcile_why = ""
        self._reconciling = False
        self._since_ms = 0
        self._committed_ms = clock.real_ms()
        self._turned_ms = clock.real_ms()
        self._heartbeat_ms = clock.real_ms()
        self._since_snapshot = 0
        self._failure: BaseException | None = None

    # --- events ------------------------------------------------------------------------------------

    def take(self, event: AnyEvent) -> None:
        """Process one event now: fold it, make its decisions durable, send them."""
        matching = self._matching
        if matching is not None:
            for caused in matching.on_market(event):
                self._process(caused)
        self._process(event)
        if isinstance(event, OrderFilled) and event.ts_ms > self._since_ms:
            self._since_ms = event.ts_ms

    def _process(self, event: AnyEvent) -> None:
        observer = self._observer
        start = self.clock.real_ms() if observer is not None else 0.0
        commands = self.engine.process(event)
        self._since_snapshot += 1
        if not commands:
            return
        if observer is not None:
            observer.on_decided(self.clock.real_ms() - start)
        self._commit()
        for command in commands:
            self._carry_out(command)

    def _commit(self) -> None:
        start = self.clock.real_ms()
        self._journal.commit()
        self._committed_ms = self.clock.real_ms()
        if self._observer is not None:
            self._observer.on_committed(self._committed_ms - start)

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, SubmitOrder):
            self._submit(command.order)
        elif isinstance(command, CancelOrder):
            self._cancel(command.order)
        elif isinstance(command, RequestReconcile):
            self._reconcile_why = command.why
        elif self._observer is not None:
            self._observer.on_alert(command.code, command.detail)

    def _submit(self, order: Order) -> None:
        if self._matching is not None:
            self._take_all(self._matching.submit(order, self.engine.risk.now_ms))
        elif self._venue is not None:
            self._spawn(self._answer(self._venue.submit(order)))

    def _cancel(self, order: Order) -> None:
        if self._matching is not None:
            self._take_all(self._matching.cancel(order, self.engine.risk.now_ms))
        elif self._venue is not None:
            self._spawn(self._answer(self._venue.cancel(order)))

    async def _answer(self, call: Coroutine[Any, Any, Sequence[AnyEvent]]) -> None:
        start = self.clock.real_ms()
        self._take_all(await call)
        if self._observer is not None:
            self._observer.on_answered(self.clock.real_ms() - start)

    def _take_all(self, events: Sequence[AnyEvent]) -> None:
        for event in events:
            if isinstance(event, OrderFilled) and event.ts_ms > self._since_ms:
                self._since_ms = event.ts_ms
            self._process(event)

    # --- running -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop`; raises what stopped it when that was not asked for."""
        self._since_ms = max(self._since_ms, self._last_fill_ms())
        drivers = [self._spawn(self._drain(feed)) for feed in self._feeds]
        drivers.append(self._spawn(self._keep_time()))
        if self._venue is not None:
            drivers.append(self._spawn(self._keep_reconciled(self._venue)))
        await self._stopping.wait()
        for task in drivers:
            task.cancel()
        for feed in self._feeds:
            await feed.aclose()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._commit()
        if self._failure is not None:
            raise self._failure

    async def stop(self, why: str, wait_s: float = 5.0) -> None:
        """Take no more entries, cancel open entry orders, leave protection, then end `run`."""
        if not self._stopping.is_set() and self._failure is None:
            self.take(EntriesPaused(self.clock.now_ms(), why))
            deadline = self.clock.real_ms() + wait_s * 1000
            while self._entries_working() and self.clock.real_ms() < deadline:
                await self.clock.sleep(0.02)
        self._stopping.set()

    def post(self, event: AnyEvent) -> None:
        """Take an event from outside the feeds: control, tests."""
        self.take(event)

    def _entries_working(self) -> bool:
        return any(o.intent.role == "entry" for o in self.engine.risk.working.values())

    def _last_fill_ms(self) -> int:
        return max((o.updated_ms for o in self.engine.state.finished.values() if o.filled), default=0)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self._failure is None:
            # A driver that dies silently would leave positions unwatched: stop, and let `run` raise it.
            self._failure = error
            self._stopping.set()

    async def _drain(self, feed: Feed) -> None:
        async for event in feed.events():
            self.take(event)

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
            if self._since_snapshot >= SNAPSHOT_EVERY and self._checkpoint is not None:
                self._since_snapshot = 0
                self._checkpoint()

    async def _keep_reconciled(self, venue: Venue) -> None:
        clock = self.clock
        settled_ms = clock.real_ms()
        while True:
            await clock.sleep(TIMER_EVERY_S)
            if self._reconcile_why:
                self._reconcile_why = ""
                self._reconciling = True
                since = max(0, self._since_ms - FILL_OVERLAP_MS)
                try:
                    self._take_all(await venue.reconcile(since, self.engine.orders.open()))
                except BrokerageError as error:
                    self._reconcile_why = str(error) or type(error).__name__
                    if self._observer is not None:
                        self._observer.on_alert("reconcile_failed", self._reconcile_why)
                self._reconciling = False
                await clock.sleep(RECONCILE_PAUSE_S)
            if clock.real_ms() - settled_ms >= SETTLE_EVERY_S * 1000:
                settled_ms = clock.real_ms()
                for order in self.engine.orders.open():
                    if order.status is _UNKNOWN:
                        self._take_all(await venue.settle(order))

    # --- health ------------------------------------------------------------------------------------

    def health(self) -> tuple[bool, str]:
        """Tell whether the loop turned within 5 s."""
        late = self.clock.real_ms() - self._turned_ms
        return late < LOOP_LIMIT_MS, f"loop turned {late:.0f} ms ago"

    def ready(self) -> tuple[bool, list[str]]:
        """Tell whether entries could be taken, and what stands against it."""
        risk = self.engine.risk
        reasons = list(risk.entry_bans.values())
        reasons += [f"{symbol}: {why}" for symbol, why in risk.blocked.items()]
        if self._reconcile_why or self._reconciling:
            reasons.append(f"reconciling: {self._reconcile_why or 'running'}")
        return not reasons, reasons
