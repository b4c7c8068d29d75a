"""The seams: everything the engine and its drivers need from outside, as protocols."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import Literal, Protocol, runtime_checkable

from qmtl.core.event import AccountReconciled, AnyEvent, BarClosed, Event
from qmtl.core.order import Order

Reach = Literal["memory", "sandbox", "live"]
"""How far an order can go: nowhere, a test venue, or real money."""


class Clock(Protocol):
    """Exchange time and real time; the only source of either."""

    @property
    def speed(self) -> float:
        """Exchange seconds per real second (> 0)."""

    def now_ms(self) -> int:
        """Exchange time in UTC milliseconds."""

    def real_ms(self) -> float:
        """Monotonic real time in milliseconds; only differences mean anything."""

    async def sleep(self, real_s: float) -> None:
        """Wait `real_s` real seconds."""


class Random(Protocol):
    """Randomness, seeded where a run must repeat."""

    def uniform(self, a: float, b: float) -> float:
        """Return a float in [a, b]."""

    def randbytes(self, n: int) -> bytes:
        """Return n random bytes."""


class MatchingVenue(Protocol):
    """A venue in memory: synchronous, deterministic; answers with events at once."""

    reach: Reach

    def on_market(self, event: Event) -> Iterable[AnyEvent]:
        """Take a market event and return what it caused: fills, triggers, funding, liquidation.

        The answer may be lazy: process each event, and send what it led to, before asking for the next.
        """

    def submit(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        """Take an order and return its acceptance, fills, expiry or rejection."""

    def cancel(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        """Cancel an order and return what became of it."""


@runtime_checkable
class CalmVenue(MatchingVenue, Protocol):
    """A matching venue that can tell of many bars at once that nothing happens on them."""

    def take_calm(self, bars: Sequence[BarClosed]) -> int:
        """Take bars of one symbol from the first on, as `on_market` would, while nothing is caused.

        Returns how many were taken; the next one must go through `on_market`.
        """


class Venue(Protocol):
    """Where orders go in a running trader.

    Every method answers with events, never with exceptions for what a venue may legitimately say;
    `submit` returns exactly one of OrderAccepted, OrderRejected, OrderUnsettled first; later news may
    also come by the feed.
    """

    @property
    def reach(self) -> Reach:
        """How far its orders go."""

    async def submit(self, order: Order) -> Sequence[AnyEvent]:
        """Send one order under its client id, once."""

    async def cancel(self, order: Order) -> Sequence[AnyEvent]:
        """Cancel one order."""

    async def settle(self, order: Order) -> Sequence[AnyEvent]:
        """Ask what became of an order whose outcome is unknown; nothing when that cannot be told yet."""

    async def reconcile(self, since_ms: int, orders: Sequence[Order]) -> Sequence[AnyEvent]:
        """Return missed fills since `since_ms`, news of `orders`, and last one AccountReconciled.

        News of an order that was never taken is OrderRejected (`absent`), once absence is proven; its
        AccountReconciled is asked for after everything before it. BrokerageError: ask again later.
        """

    async def account(self) -> AccountReconciled:
        """Return open orders, balances and positions as they stand."""

    async def aclose(self) -> None:
        """Close connections."""


class Feed(Protocol):
    """A source of events in the order they must be processed."""

    def events(self) -> AsyncIterator[AnyEvent]:
        """Yield events until closed; reconnects and refills are the feed's own business."""

    async def aclose(self) -> None:
        """Stop and close connections."""


class EventJournal(Protocol):
    """The append-only record of one account: events, what the engine decided, in one order."""

    @property
    def epoch(self) -> str:
        """Random per opening; part of every client order id."""

    def append(self, event: AnyEvent) -> None:
        """Take the next event; durable only after `commit`."""

    def commit(self) -> None:
        """Make everything appended durable; JournalError when it cannot be."""

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """Yield (seq, event) in order."""

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """Append several."""

    def close(self) -> None:
        """Commit and release."""


class Lease(Protocol):
    """Exclusive right to one account across processes."""

    @property
    def holder(self) -> str:
        """Who holds it now, for messages."""

    def acquire(self) -> None:
        """Take it or raise JournalError naming the holder."""

    def release(self) -> None:
        """Give it back."""
