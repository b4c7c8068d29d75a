"""One order meets a price: triggers, takes, rests, fills or ends."""

from collections.abc import Mapping
from decimal import Decimal

from qmtl.core.event import AnyEvent, OrderExpired, OrderRejected
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, Side, TimeInForce
from qmtl.engine.market_book import MarketBook
from qmtl.engine.order_filter import FOK_REJECT, GTX_REJECT
from qmtl.engine.settlement import Settlement
from qmtl.engine.venue_models import NoSlippage, VenueModels
from qmtl.engine.working_order import WorkingOrder

_BUY = Side.BUY
_FOK, _GTX, _IOC = TimeInForce.FOK, TimeInForce.GTX, TimeInForce.IOC
_CLOSED = "nothing to reduce"


class Crossing:
    """The rules of one order against its book; everything it causes is appended to `events`."""

    def __init__(self, books: Mapping[str, MarketBook], settlement: Settlement, models: VenueModels) -> None:
        self.books = books
        self._settlement = settlement
        self._slip = None if isinstance(models.slippage, NoSlippage) else models.slippage.slip
        self._is_through = models.limit_fill == "through"

    def slipped(self, book: MarketBook, intent: OrderIntent, quantity: Decimal) -> Decimal:
        """Return what a taker pays for `quantity` now: market price plus slippage, never past its limit."""
        price = book.price()
        if self._slip is not None:
            price = self._slip(
                price,
                is_buy=intent.side is _BUY,
                quantity=quantity,
                volume=book.volume,
                instrument=book.instrument,
            )
        limit = intent.limit_price
        if limit is None:
            return price
        return min(price, limit) if intent.side is _BUY else max(price, limit)

    def is_reached(self, order: WorkingOrder, price: float) -> bool:
        """Tell whether a resting limit order fills at market price `price`."""
        limit = order.limit
        if limit is None:
            return True
        if self._is_through:
            return price < limit if order.is_buy else price > limit
        return price <= limit if order.is_buy else price >= limit

    def tradable(self, book: MarketBook, order: WorkingOrder) -> Decimal:
        """Return how much of an order can trade now: what remains, can be reduced, and is available."""
        quantity = order.remaining
        if order.reduces:
            quantity = min(quantity, book.reducible(order.intent))
        if book.available is not None:
            quantity = min(quantity, book.available)
        return quantity

    def trigger(self, book: MarketBook, order: WorkingOrder, ts_ms: int, events: list[AnyEvent]) -> None:
        """Turn a conditional order into the market or limit order it stands for."""
        order.is_triggered = True
        order.updated_ms = ts_ms
        if order.reduces:
            reducible = book.reducible(order.intent)
            if not reducible:
                self.expire(book, order, _CLOSED, ts_ms, events)
                return
            if order.intent.close_position:
                order.quantity = reducible
        else:
            price = order.limit_price or book.price()
            shortage = self._settlement.find_shortage(book, order.intent, order.remaining, price)
            if shortage is not None:
                self._reject(book, order, shortage, ts_ms, events)
                return
        self.arrive(book, order, ts_ms, events)

    def arrive(self, book: MarketBook, order: WorkingOrder, ts_ms: int, events: list[AnyEvent]) -> None:
        """Let an order meet the market for the first time: take what crosses, rest or end."""
        order.is_arriving = False
        tif, limit = order.intent.time_in_force, order.limit
        if limit is None or order.limit_price is None:
            order.reserved_price = book.price()
        else:
            order.reserved_price = order.limit_price
            last = book.last
            crosses = last is not None and (last <= limit if order.is_buy else last >= limit)
            if tif is _GTX and crosses:
                self._reject(book, order, GTX_REJECT, ts_ms, events)
                return
            if tif is _FOK and not (crosses and self.tradable(book, order) == order.remaining):
                self._reject(book, order, FOK_REJECT, ts_ms, events)
                return
            if not crosses:
                if tif is _IOC:
                    self.expire(book, order, "IOC", ts_ms, events)
                else:
                    self._settlement.keep(book, order)
                return
        self._settlement.keep(book, order)
        self._take(book, order, ts_ms, events)
        if tif is _IOC and order.client_order_id in book.orders:
            self.expire(book, order, "IOC", ts_ms, events)

    def work(
        self,
        book: MarketBook,
        order: WorkingOrder,
        ts_ms: int,
        events: list[AnyEvent],
        *,
        is_gap: bool = False,
    ) -> None:
        """Let an order on the book meet the present price; across a gap a limit fills at that price."""
        if order.is_arriving:
            self.arrive(book, order, ts_ms, events)
        elif order.limit_price is None:
            self._take(book, order, ts_ms, events)
        elif book.last is not None and self.is_reached(order, book.last):
            self.fill_resting(book, order, book.price() if is_gap else order.limit_price, ts_ms, events)

    def fill_resting(
        self, book: MarketBook, order: WorkingOrder, price: Decimal, ts_ms: int, events: list[AnyEvent]
    ) -> None:
        """Fill what can trade of a resting limit order, as maker."""
        quantity = self.tradable(book, order)
        if quantity > 0:
            self._fill(book, order, quantity, price, ts_ms, events, is_maker=True)

    def expire_due(self, book: MarketBook, ts_ms: int, events: list[AnyEvent]) -> None:
        """End the orders whose time is over."""
        if ts_ms >= book.expiry_ms:
            for order in book.find_due(ts_ms):
                self.expire(book, order, "time in force", ts_ms, events)

    def expire(
        self, book: MarketBook, order: WorkingOrder, reason: str, ts_ms: int, events: list[AnyEvent]
    ) -> None:
        """End an order; its fills stand."""
        self._settlement.drop(book, order)
        events.append(OrderExpired(ts_ms, order.client_order_id, reason, order.venue_order_id))

    def expire_orphans(self, book: MarketBook, ts_ms: int, events: list[AnyEvent]) -> None:
        """End reduce-only orders on the book that have nothing left to reduce, as the venue does."""
        for order in book.find_orphans():
            self.expire(book, order, _CLOSED, ts_ms, events)

    def _reject(
        self, book: MarketBook, order: WorkingOrder, reason: str, ts_ms: int, events: list[AnyEvent]
    ) -> None:
        self._settlement.drop(book, order)
        events.append(OrderRejected(ts_ms, order.client_order_id, reason))

    def _take(self, book: MarketBook, order: WorkingOrder, ts_ms: int, events: list[AnyEvent]) -> None:
        quantity = self.tradable(book, order)
        if quantity > 0:
            price = self.slipped(book, order.intent, quantity)
            self._fill(book, order, quantity, price, ts_ms, events, is_maker=False)
        elif order.reduces and not book.reducible(order.intent):
            self.expire(book, order, _CLOSED, ts_ms, events)

    def _fill(
        self,
        book: MarketBook,
        order: WorkingOrder,
        quantity: Decimal,
        price: Decimal,
        ts_ms: int,
        events: list[AnyEvent],
        *,
        is_maker: bool,
    ) -> None:
        intent = order.intent
        order.filled += quantity
        order.filled_value += quantity * price
        order.updated_ms = ts_ms
        events.append(
            self._settlement.fill(
                book,
                order.client_order_id,
                order.venue_order_id,
                intent,
                quantity,
                price,
                ts_ms,
                is_maker=is_maker,
            )
        )
        if order.remaining <= ZERO:
            self._settlement.drop(book, order)
            # A closePosition order ends with its position, whatever quantity it was written with.
            if intent.close_position and order.filled < intent.quantity:
                self.expire(book, order, _CLOSED, ts_ms, events)
        elif order.reduces and not book.reducible(intent):
            self.expire(book, order, _CLOSED, ts_ms, events)
        if book.orders:
            self.expire_orphans(book, ts_ms, events)
