"""A venue in memory: recorded or live market data in, simulated fills out."""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from heapq import heappop, heappush
from math import inf
from typing import Literal

from qmtl.core.event import (
    AccountReconciled,
    AnyEvent,
    BalanceReport,
    BarClosed,
    Event,
    MarkPriceUpdated,
    OrderAccepted,
    OrderRejected,
    OrderReport,
    PositionReport,
    PriceUpdated,
)
from qmtl.core.order import Order, OrderStatus
from qmtl.engine.market_book import MarketBook
from qmtl.engine.matching import MatchingCore
from qmtl.engine.ports import Clock, Reach
from qmtl.engine.venue_models import FixedLatency, UnlimitedLiquidity

FillMode = Literal["next_open", "close"]
"""When an order sent at a bar's close meets the market: at the next bar's open, or at that close."""

_UNSEEN = (-1, 0.0)
_NOTHING: tuple[AnyEvent, ...] = ()


class SimulatedVenue:
    """The matching core behind the MatchingVenue port.

    Bars move price along the declared path; where the forming candle was seen as updates, its close
    does. Orders sent between bars fill by `fill`, orders sent at an update at that price. A latency
    model keeps commands in a queue of exchange time. A mark price event at or after the announced
    funding time pays the announced rate.
    """

    reach: Reach = "memory"

    def __init__(self, core: MatchingCore, *, fill: FillMode = "next_open") -> None:
        """Trade on `core`, which nobody else drives."""
        self.core = core
        self.fill: FillMode = fill
        self._books = core.books
        self._marks = core.account.marks
        self._is_unlimited = isinstance(core.models.liquidity, UnlimitedLiquidity)
        self._waits_for_open = fill == "next_open"
        self._has_latency = core.models.latency != FixedLatency(0.0)
        self._draw_ms = core.models.latency.draw_ms
        self._queue: list[tuple[float, int, bool, Order]] = []
        self._count = 0
        self._walk: Iterator[AnyEvent] | None = None
        self._between_bars: dict[str, bool] = {}
        self._seen: dict[str, tuple[int, float]] = {}
        self._funding: dict[str, tuple[int, float]] = {}

    def describe(self) -> tuple[str, ...]:
        """Return one sentence per assumption, for reports."""
        words = "next bar's open" if self.fill == "next_open" else "the close that decided"
        return (*self.core.models.describe(), f"orders sent at a close fill at {words}")

    # --- market -----------------------------------------------------------------------------------

    def on_market(self, event: Event) -> Iterable[AnyEvent]:
        """Take a market event and return what it caused.

        A bar on whose path something happens is answered lazily: orders submitted between two of the
        events meet the rest of the path. What the caller leaves comes first in the next answer.
        """
        if type(event) is BarClosed:
            book = self._books.get(event.symbol)
            if book is None:
                return _NOTHING
            was_ticked = self._seen.get(event.symbol, _UNSEEN)[0] == event.open_ms if self._seen else False
            self._between_bars[event.symbol] = not was_ticked
            if book.calm_low > book.calm_high:
                self.core.look_around(book)
            if (
                book.calm_low < event.low
                and event.high < book.calm_high
                and event.ts_ms < book.expiry_ms
                and self._is_unlimited
                and not self._queue
                and self._walk is None
            ):
                book.last = event.close
                book.exact = None
                book.volume = event.volume
                if book.mark is None:
                    self._marks[event.symbol] = event.close
                return _NOTHING
            before = self._drain()
            self._walk = self._take_bar(event, book, before, was_ticked=was_ticked)
            return self._walk
        if type(event) is PriceUpdated:
            return self._take_price(event)
        if type(event) is MarkPriceUpdated:
            return [*self._drain(), *self._take_mark(event)] if event.symbol in self._books else _NOTHING
        return _NOTHING

    def take_calm(self, bars: Sequence[BarClosed]) -> int:
        """See CalmVenue."""
        symbol = bars[0].symbol
        book = self._books.get(symbol)
        if book is None or self._seen or self._queue or self._walk is not None or not self._is_unlimited:
            return 0
        if book.calm_low > book.calm_high:
            self.core.look_around(book)
        count = _count_calm(bars, book)
        if count:
            last = bars[count - 1]
            self._between_bars[symbol] = True
            book.last, book.exact, book.volume = last.close, None, last.volume
            if book.mark is None:
                self._marks[symbol] = last.close
        return count

    def _drain(self) -> list[AnyEvent]:
        walk, self._walk = self._walk, None
        return [] if walk is None else list(walk)

    def _take_bar(
        self, event: BarClosed, book: MarketBook, before: list[AnyEvent], *, was_ticked: bool
    ) -> Iterator[AnyEvent]:
        yield from before
        self._between_bars[event.symbol] = False
        yield from self._arrivals(event.open_ms)
        if was_ticked:
            book.available = self._share_of(event, book)
            yield from self.core.on_price(
                event.symbol, event.close, event.ts_ms, book.available, event.volume
            )
        else:
            for events in self.core.walk(event.symbol, event, event.ts_ms, self._arrivals):
                yield from events
            self._between_bars[event.symbol] = True
        yield from self._arrivals(event.ts_ms)
        self._walk = None

    def _take_price(self, event: PriceUpdated) -> Sequence[AnyEvent]:
        symbol = event.symbol
        book = self._books.get(symbol)
        if book is None:
            return _NOTHING
        self._between_bars[symbol] = False
        is_calm = book.calm_low < event.close < book.calm_high and event.ts_ms < book.expiry_ms
        if is_calm and self._is_unlimited and not self._queue and self._walk is None:
            self._seen[symbol] = (event.open_ms, event.volume)
            book.volume = event.volume
            book.set_price(event.close)
            return _NOTHING
        events = self._drain()
        events += self._arrivals(event.ts_ms)
        available = self._share_of(event, book)
        events += self.core.on_price(event.symbol, event.close, event.ts_ms, available, event.volume)
        return events

    def _share_of(self, event: BarClosed | PriceUpdated, book: MarketBook) -> Decimal | None:
        seen_ms, seen = self._seen.get(event.symbol, _UNSEEN)
        traded = event.volume - seen if seen_ms == event.open_ms else event.volume
        self._seen[event.symbol] = (event.open_ms, event.volume)
        if self._is_unlimited:
            return None
        if traded <= 0 and type(event) is BarClosed:
            # The closing update and the closed bar are one moment: what is left of it stays.
            return book.available
        # The model wants a whole candle, of which an update is a quarter.
        return self.core.models.liquidity.available(traded * 4, book.instrument.lot_size)

    def _take_mark(self, event: MarkPriceUpdated) -> list[AnyEvent]:
        events = self._arrivals(event.ts_ms)
        events += self.core.on_mark(event.symbol, event.mark, event.ts_ms)
        due_ms, rate = self._funding.get(event.symbol, (0, 0.0))
        if not due_ms and event.next_funding_ms:
            due_ms, rate = event.next_funding_ms, event.funding_rate
        if due_ms and event.ts_ms >= due_ms:
            events += self.core.on_funding(event.symbol, Decimal(str(rate)), event.ts_ms, event.mark)
        is_next = event.next_funding_ms > event.ts_ms
        self._funding[event.symbol] = (event.next_funding_ms, event.funding_rate) if is_next else (0, 0.0)
        return events

    # --- orders -----------------------------------------------------------------------------------

    def submit(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        """Take an order; empty while it travels."""
        if self._has_latency:
            delay_ms = self._draw_ms()
            if delay_ms > 0:
                self._send(ts_ms + delay_ms, order, is_cancel=False)
                return _NOTHING
        waits = self._waits_for_open and self._between_bars.get(order.intent.symbol, False)
        return self.core.submit(order, ts_ms, waits=waits)

    def deliver(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        """Take an order that has arrived."""
        waits = self._waits_for_open and self._between_bars.get(order.intent.symbol, False)
        return self.core.submit(order, ts_ms, waits=waits)

    def cancel(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        """Cancel an order; empty while the command travels."""
        if self._has_latency:
            delay_ms = self._draw_ms()
            if delay_ms > 0:
                self._send(ts_ms + delay_ms, order, is_cancel=True)
                return _NOTHING
        return self.core.cancel(order.client_order_id, ts_ms)

    def _send(self, due_ms: float, order: Order, *, is_cancel: bool) -> None:
        self._count += 1
        heappush(self._queue, (due_ms, self._count, is_cancel, order))

    def _arrivals(self, until_ms: int) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        while self._queue and self._queue[0][0] < until_ms:
            due_ms, _, is_cancel, order = heappop(self._queue)
            at_ms = int(due_ms)
            if is_cancel:
                events += self.core.cancel(order.client_order_id, at_ms)
            else:
                events += self.deliver(order, at_ms)
        return events

    # --- account ----------------------------------------------------------------------------------

    def restore(self, orders: Iterable[Order]) -> None:
        """Put orders that were open before a restart back; the core's account holds their fills."""
        for order in orders:
            if not order.is_done and order.venue_order_id:
                self.core.restore(order)

    def account(self, ts_ms: int) -> AccountReconciled:
        """Return open orders, balance and positions as they stand."""
        account = self.core.account
        positions = tuple(
            PositionReport(held.symbol, held.quantity, held.entry_price, held.side)
            for held in account.positions.values()
            if held.quantity
        )
        orders = tuple(
            OrderReport(
                one.client_order_id,
                one.venue_order_id,
                one.intent.symbol,
                OrderStatus.PARTIALLY_FILLED if one.filled else OrderStatus.ACCEPTED,
                one.intent.side,
                one.quantity,
                one.filled,
                one.filled_value / one.filled if one.filled else one.filled,
            )
            for one in self.core.open_orders()
        )
        return AccountReconciled(ts_ms, orders, (BalanceReport(account.asset, account.wallet),), positions)


def _count_calm(bars: Sequence[BarClosed], book: MarketBook) -> int:
    low, high, expiry_ms = book.calm_low, book.calm_high, book.expiry_ms
    if bars[-1].ts_ms < expiry_ms:
        is_above = low == -inf or low < min([bar.low for bar in bars])
        if is_above and (high == inf or max([bar.high for bar in bars]) < high):
            return len(bars)
    count = 0
    for bar in bars:
        if not (low < bar.low and bar.high < high and bar.ts_ms < expiry_ms):
            break
        count += 1
    return count


class SimulatedAsyncVenue:
    """The Venue port over a simulated venue: latency is waited for on the clock."""

    reach: Reach = "memory"

    def __init__(self, venue: SimulatedVenue, clock: Clock) -> None:
        """Answer at the times of `clock`; market events go to `venue` directly."""
        self._venue = venue
        self._clock = clock

    async def _travel(self) -> None:
        delay_ms = self._venue.core.models.latency.draw_ms()
        if delay_ms > 0:
            await self._clock.sleep(delay_ms / 1000 / self._clock.speed)

    async def submit(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue."""
        await self._travel()
        return self._venue.deliver(order, self._clock.now_ms())

    async def cancel(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue."""
        await self._travel()
        return self._venue.core.cancel(order.client_order_id, self._clock.now_ms())

    async def settle(self, order: Order) -> Sequence[AnyEvent]:
        """Accepted when the order is open; otherwise it was never taken, for every answer is certain."""
        found = self._venue.core.find_order(order.client_order_id)
        now_ms = self._clock.now_ms()
        if found is None:
            return [OrderRejected(now_ms, order.client_order_id, "absent")]
        return [OrderAccepted(now_ms, order.client_order_id, found.venue_order_id)]

    async def reconcile(self, since_ms: int, orders: Sequence[Order]) -> Sequence[AnyEvent]:
        """Return the account alone: fills in memory are never missed."""
        return [await self.account()]

    async def account(self) -> AccountReconciled:
        """See Venue."""
        return self._venue.account(self._clock.now_ms())

    async def aclose(self) -> None:
        """Nothing is open."""
