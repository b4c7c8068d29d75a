"""The one fill simulator: one account's orders against the price and volume of its markets."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal

from qmtl.core.account import Account
from qmtl.core.event import (
    AnyEvent,
    CancelRejected,
    OrderAccepted,
    OrderCanceled,
    OrderRejected,
)
from qmtl.core.instrument import Instrument
from qmtl.core.interval import DAY_MS
from qmtl.core.money import ZERO
from qmtl.core.order import Order, OrderIntent, OrderType, PositionSide, TimeInForce
from qmtl.engine import order_filter
from qmtl.engine.candle_path import BarLike, CandlePath
from qmtl.engine.crossing import Crossing
from qmtl.engine.leg import Strike, find_strike, legs
from qmtl.engine.margin import LeverageBracket, MarginBook, MarginMode
from qmtl.engine.market_book import MarketBook
from qmtl.engine.order_filter import VenueRefusalError, find_notional_fault, find_refusal
from qmtl.engine.settlement import Settlement
from qmtl.engine.venue_models import VenueModels
from qmtl.engine.working_order import CONDITIONAL, WorkingOrder, is_closing_side

_MARKET = OrderType.MARKET
_DAY = TimeInForce.DAY
_BOTH = PositionSide.BOTH


class MatchingCore:
    """Orders of one account against the price of each market; orders never meet each other.

    `account=None` makes one in USDT holding `first_wallet`; an account given is written here only.
    Public state: `account`, `books` (price and orders by symbol), `margin` (leverage, mode, brackets),
    `models`, `is_hedged`. Reasons of refusals are "CODE text" as Binance documents them for USDT-M.
    """

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        *,
        models: VenueModels | None = None,
        account: Account | None = None,
        first_wallet: Decimal = Decimal(10_000),
        hedge_mode: bool = False,
        margin_mode: MarginMode = "isolated",
        leverage: int = 1,
        brackets: Mapping[str, Sequence[LeverageBracket]] | None = None,
        first_order_id: int = 1,
        first_trade_id: int = 1,
    ) -> None:
        if account is None:
            account = Account()
            account.transfer(first_wallet)
        self.models = models or VenueModels()
        self.account = account
        self.is_hedged = hedge_mode
        self.books = {symbol: MarketBook(one, account) for symbol, one in instruments.items()}
        self.margin = MarginBook(
            account, instruments, mark=self._mark, mode=margin_mode, leverage=leverage, brackets=brackets
        )
        self.settlement = Settlement(
            account, self.books, self.margin, self.models, first_trade_id=first_trade_id
        )
        self.crossing = Crossing(self.books, self.settlement, self.models)
        self._next_order_id = first_order_id

    def book(self, symbol: str) -> MarketBook:
        """Return the book of `symbol`; VenueRefusalError when it is not listed."""
        book = self.books.get(symbol)
        if book is None:
            raise VenueRefusalError(order_filter.SYMBOL)
        return book

    def _mark(self, symbol: str) -> Decimal | None:
        return self.books[symbol].mark_price()

    # --- orders -----------------------------------------------------------------------------------

    def submit(self, order: Order, ts_ms: int, *, waits: bool = False) -> list[AnyEvent]:
        """Take an order: [OrderRejected], or [OrderAccepted, OrderFilled..., OrderExpired?].

        The order object is neither changed nor kept. With `waits` a MARKET or LIMIT order is accepted
        and meets the market at its next price instead of the present one.
        """
        intent, cid = order.intent, order.client_order_id
        book = self.books.get(intent.symbol)
        refusal = order_filter.SYMBOL if book is None else self._find_refusal(book, cid, intent)
        if book is None or refusal is not None:
            return [OrderRejected(ts_ms, cid, refusal or "")]
        number = self._next_order_id
        self._next_order_id = number + 1
        venue_id = str(number)
        accepted = OrderAccepted(ts_ms, cid, venue_id)
        if intent.type is _MARKET and not waits and book.available is None:
            quantity = intent.quantity
            if not intent.reduce_only or quantity <= book.reducible(intent):
                price = self.crossing.slipped(book, intent, quantity)
                fill = self.settlement.fill(
                    book, cid, venue_id, intent, quantity, price, ts_ms, is_maker=False
                )
                if not book.orders:
                    return [accepted, fill]
                filled: list[AnyEvent] = [accepted, fill]
                self.crossing.expire_orphans(book, ts_ms, filled)
                return filled
        events: list[AnyEvent] = []
        self._place(book, self._working(order, venue_id, ts_ms), ts_ms, events, waits=waits)
        if events and type(events[0]) is OrderRejected:
            return events
        return [accepted, *events]

    def _working(self, order: Order, venue_id: str, ts_ms: int) -> WorkingOrder:
        working = WorkingOrder(order.client_order_id, venue_id, order.intent, ts_ms, order.filled)
        working.filled_value = order.filled_value
        working.expire_ms = order.intent.expire_ms
        if order.intent.time_in_force is _DAY:
            working.expire_ms = (ts_ms // DAY_MS + 1) * DAY_MS
        return working

    def _place(
        self, book: MarketBook, working: WorkingOrder, ts_ms: int, events: list[AnyEvent], *, waits: bool
    ) -> None:
        if working.is_conditional:
            seen = self._watched_price(book, working)
            if seen is not None:
                working.trail(seen)
            self.settlement.keep(book, working)
        elif waits or book.last is None:
            working.is_arriving = True
            working.reserved_price = working.limit_price or book.price()
            self.settlement.keep(book, working)
        else:
            self.crossing.arrive(book, working, ts_ms, events)

    def _find_refusal(self, book: MarketBook, cid: str, intent: OrderIntent) -> str | None:
        refusal = find_refusal(intent, book.instrument, is_hedged=self.is_hedged)
        if refusal is not None:
            return refusal
        if cid in book.orders:
            return order_filter.DUPLICATE_ID
        if intent.type is not _MARKET and intent.type in CONDITIONAL:
            return self._find_trigger_fault(book, intent)
        price = intent.limit_price
        if price is None:
            if book.last is None:
                return order_filter.NO_PRICE
            price = book.price()
        if intent.reduce_only or is_closing_side(intent):
            reducible = book.reducible(intent)
            is_short = intent.quantity > reducible if self.is_hedged else not reducible
            return order_filter.REDUCE_ONLY if is_short else None
        fault = find_notional_fault(intent, book.instrument, price)
        return fault or self.settlement.find_shortage(book, intent, intent.quantity, price)

    def _find_trigger_fault(self, book: MarketBook, intent: OrderIntent) -> str | None:
        probe = WorkingOrder("", "", intent, 0)
        seen = self._watched_price(book, probe)
        price = intent.limit_price or intent.stop_price or intent.activation_price
        if seen is not None and probe.is_hit(seen):
            return order_filter.IMMEDIATE_TRIGGER
        if price is None:
            if book.last is None:
                return order_filter.NO_PRICE
            price = book.price()
        return None if probe.reduces else find_notional_fault(intent, book.instrument, price)

    def cancel(self, client_order_id: str, ts_ms: int) -> list[AnyEvent]:
        """Return [OrderCanceled], or [CancelRejected "-2011 Unknown order sent."]."""
        book = self.settlement.find_book(client_order_id)
        if book is None:
            return [CancelRejected(ts_ms, client_order_id, order_filter.UNKNOWN_ORDER)]
        order = book.orders[client_order_id]
        self.settlement.drop(book, order)
        return [OrderCanceled(ts_ms, client_order_id, "", order.venue_order_id)]

    def cancel_all(self, symbol: str | None, ts_ms: int) -> list[AnyEvent]:
        """Cancel every order of `symbol`, of every symbol for None."""
        ids = [order.client_order_id for order in self.open_orders(symbol)]
        return [event for cid in ids for event in self.cancel(cid, ts_ms)]

    def open_orders(self, symbol: str | None = None) -> list[WorkingOrder]:
        """Return open orders in the order they came, by symbol."""
        books = self.books.values() if symbol is None else (self.book(symbol),)
        return [order for book in books for order in book.orders.values()]

    def find_order(self, client_order_id: str) -> WorkingOrder | None:
        """Return an open order, None when there is none of that id."""
        book = self.settlement.find_book(client_order_id)
        return None if book is None else book.orders[client_order_id]

    def restore(self, order: Order) -> None:
        """Put an order that was open before a restart back on its book, its fills being booked already."""
        working = self._working(order, order.venue_order_id, order.created_ms)
        working.is_arriving = not working.is_conditional and working.limit_price is None
        working.reserved_price = working.limit_price or ZERO
        self.settlement.keep(self.book(order.intent.symbol), working)

    # --- market -----------------------------------------------------------------------------------

    def on_price(
        self, symbol: str, price: float, ts_ms: int, available: Decimal | None = None, volume: float = 0.0
    ) -> list[AnyEvent]:
        """Take one trade price.

        `available` base units can trade on it (None: any quantity); `volume` is the candle's, for
        slippage models that read it.
        """
        book = self.book(symbol)
        book.available = available
        book.volume = volume
        return self._meet(book, price, ts_ms, is_gap=False)

    def on_bar(self, symbol: str, bar: BarLike, ts_ms: int) -> list[AnyEvent]:
        """Take a closed candle along the declared path; `ts_ms` is when it closed."""
        return [event for events in self.walk(symbol, bar, ts_ms) for event in events]

    def walk(
        self, symbol: str, bar: BarLike, ts_ms: int, arrivals: Callable[[int], list[AnyEvent]] | None = None
    ) -> Iterator[list[AnyEvent]]:
        """Take a closed candle step by step: yields what happened at one price, then goes on from there.

        Orders submitted between two steps meet the rest of the path. A gap fills at the open. `arrivals`
        is called with the time of each later point of the path before it is reached.
        """
        book = self.book(symbol)
        book.volume = bar.volume
        share = book.available = self.models.liquidity.available(bar.volume, book.instrument.lot_size)
        if self.models.path is CandlePath.CLOSE_ONLY:
            yield self._meet(book, bar.close, ts_ms, is_gap=False)
            return
        yield self._meet(book, bar.open, bar.open_ms, is_gap=True)
        span = ts_ms - bar.open_ms
        for fraction, target in legs(bar, self.models, book):
            at_ms = bar.open_ms + int(span * fraction)
            if arrivals is not None:
                yield arrivals(at_ms)
            book.available = share
            yield from self.travel(symbol, target, at_ms)

    def travel(self, symbol: str, target: float, ts_ms: int) -> Iterator[list[AnyEvent]]:
        """Let price move from where it is to `target` without a gap; yields as `walk` does."""
        book = self.book(symbol)
        while strike := find_strike(book, self.margin, self.crossing, target):
            yield self._act(book, strike, ts_ms)
        yield self._meet(book, target, ts_ms, is_gap=False)

    def _act(self, book: MarketBook, strike: Strike, ts_ms: int) -> list[AnyEvent]:
        book.set_price(strike.level, strike.price)
        order = strike.order
        if order is None:
            return self.settlement.liquidate(strike.doomed, {book.symbol: strike.price}, ts_ms)
        events: list[AnyEvent] = []
        if order.is_waiting:
            self.crossing.trigger(book, order, ts_ms, events)
        elif order.limit_price is None:
            self.crossing.work(book, order, ts_ms, events)
        else:
            self.crossing.fill_resting(book, order, order.limit_price, ts_ms, events)
        return events

    def look_around(self, book: MarketBook) -> None:
        """Learn between which prices nothing can happen on `book`, so that a driver may skip them."""
        if book.mark is None and not book.is_band_known:
            book.set_band(self.margin.band(book.symbol))
        if book.orders or book.mark is not None:
            book.find_calm()
        else:
            book.calm_low, book.calm_high = book.band_low, book.band_high

    def on_mark(self, symbol: str, mark: float, ts_ms: int) -> list[AnyEvent]:
        """Take a mark price: triggers orders that watch it, and liquidates at it."""
        book = self.book(symbol)
        book.set_mark(mark)
        if book.last is None:
            book.last = mark
        if not book.orders and book.band_low < mark < book.band_high:
            return []
        events: list[AnyEvent] = []
        self._check_liquidation(book, mark, ts_ms, events)
        for order in list(book.orders.values()):
            if order.is_waiting and order.watches_mark and order.client_order_id in book.orders:
                self._look(book, order, mark, ts_ms, events)
        return events

    def on_funding(self, symbol: str, rate: Decimal, ts_ms: int, mark: float | None = None) -> list[AnyEvent]:
        """Pay funding on the open positions of `symbol` at `mark` (the present mark where None).

        A rate that is missing counts 0 and is the caller's to report.
        """
        book = self.book(symbol)
        price = book.mark_price() if mark is None else Decimal(str(mark))
        return [] if price is None else self.settlement.fund(book, rate, price, ts_ms)

    def on_time(self, ts_ms: int) -> list[AnyEvent]:
        """Expire the orders whose time is over."""
        events: list[AnyEvent] = []
        for book in self.books.values():
            self.crossing.expire_due(book, ts_ms, events)
        return events

    def _meet(self, book: MarketBook, price: float, ts_ms: int, *, is_gap: bool) -> list[AnyEvent]:
        book.set_price(price)
        if book.calm_low < price < book.calm_high and ts_ms < book.expiry_ms:
            return []
        events: list[AnyEvent] = []
        self.crossing.expire_due(book, ts_ms, events)
        if book.mark is None:
            self._check_liquidation(book, price, ts_ms, events)
        waiting = [order for order in book.orders.values() if order.is_waiting]
        working = [order for order in book.orders.values() if not order.is_waiting]
        for order in waiting:
            if order.client_order_id in book.orders and not (order.watches_mark and book.mark is not None):
                self._look(book, order, price, ts_ms, events)
        for order in working:
            if order.client_order_id in book.orders:
                self.crossing.work(book, order, ts_ms, events, is_gap=is_gap)
        book.find_calm()
        return events

    def _watched_price(self, book: MarketBook, order: WorkingOrder) -> float | None:
        return book.mark if order.watches_mark and book.mark is not None else book.last

    def _look(
        self, book: MarketBook, order: WorkingOrder, price: float, ts_ms: int, events: list[AnyEvent]
    ) -> None:
        if order.is_hit(price):
            self.crossing.trigger(book, order, ts_ms, events)
        else:
            order.trail(price)

    def _check_liquidation(self, book: MarketBook, mark: float, ts_ms: int, events: list[AnyEvent]) -> None:
        if book.band_low < mark < book.band_high:
            return
        if not book.is_band_known:
            book.set_band(self.margin.band(book.symbol))
            if book.band_low < mark < book.band_high:
                return
        doomed = self.margin.find_doomed(book.symbol)
        if doomed:
            events += self.settlement.liquidate(doomed, {}, ts_ms)

    # --- account ----------------------------------------------------------------------------------

    def set_hedge_mode(self, *, is_hedged: bool) -> None:
        """Change the position mode; VenueRefusalError when nothing changes or something is open."""
        if is_hedged is self.is_hedged:
            raise VenueRefusalError("-4059 No need to change position side.")
        if self.settlement.order_count:
            raise VenueRefusalError("-4067 Position side cannot be changed if there exists open orders.")
        if self.margin.open_positions():
            raise VenueRefusalError("-4068 Position side cannot be changed if there exists position.")
        self.is_hedged = is_hedged

    def set_leverage(self, symbol: str, leverage: int) -> None:
        """Change the leverage of `symbol`; VenueRefusalError (-4028, -4161, -2027, -2028)."""
        book = self.book(symbol)
        self.margin.change_leverage(symbol, leverage, self.settlement.available)
        book.forget_band()

    def set_margin_mode(self, symbol: str, mode: MarginMode) -> None:
        """Change isolated or cross; VenueRefusalError (-4046, -4047, -4048)."""
        book = self.book(symbol)
        self.margin.change_mode(symbol, mode, has_orders=bool(book.orders))
        book.forget_band()

    def add_margin(self, symbol: str, side: PositionSide, amount: Decimal) -> None:
        """Move money to (negative: from) an isolated position; VenueRefusalError."""
        book = self.book(symbol)
        self.margin.add(self.account.position(symbol, side), amount, self.settlement.available())
        book.forget_band()

    def transfer(self, amount: Decimal, ts_ms: int, transfer_id: str = "") -> AnyEvent:
        """Move money in (positive) or out; return the booked Transferred."""
        return self.settlement.transfer(amount, ts_ms, transfer_id)

    def available(self) -> Decimal:
        """Return the balance free for new orders, in the settle currency."""
        return self.settlement.available()

    def liquidation_price(self, symbol: str, side: PositionSide = _BOTH) -> Decimal | None:
        """Return the mark at which a position is liquidated, None when flat or nowhere."""
        return self.margin.find_liquidation_price(self.account.position(symbol, side))
