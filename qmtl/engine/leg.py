"""The straight legs of a candle's path, and the first order that price meets on one of them."""

from collections.abc import Iterator
from decimal import Decimal
from typing import NamedTuple

from qmtl.core.money import ZERO
from qmtl.core.order import OrderType
from qmtl.core.position import Position
from qmtl.engine.candle_path import BarLike, CandlePath
from qmtl.engine.crossing import Crossing
from qmtl.engine.margin import MarginBook
from qmtl.engine.market_book import MarketBook
from qmtl.engine.venue_models import VenueModels
from qmtl.engine.working_order import WorkingOrder

_STOPS = frozenset({OrderType.STOP, OrderType.STOP_MARKET, OrderType.TRAILING_STOP_MARKET})
_TRAILING = OrderType.TRAILING_STOP_MARKET
_STOP_RANK, _LIQUIDATION_RANK, _LIMIT_RANK = 0, 1, 2


class Strike(NamedTuple):
    """Where price stops on its way: an order to act on, or positions to liquidate."""

    distance: float
    rank: int
    level: float
    price: Decimal
    order: WorkingOrder | None
    doomed: list[Position]


def legs(bar: BarLike, models: VenueModels, book: MarketBook) -> Iterator[tuple[float, float]]:
    """Yield (share of the bar's time, price) of the points after the open, along the declared path.

    With `stops_first` a reducing stop inside the bar on one side only makes that side come first.
    """
    low_first = models.path is CandlePath.OPEN_LOW_HIGH_CLOSE
    if models.stops_first and book.orders:
        below, above = _find_stops(bar, book)
        if below is not above:
            low_first = below
    first, second = (bar.low, bar.high) if low_first else (bar.high, bar.low)
    yield 0.25, first
    yield 0.5, second
    yield 1.0, bar.close


def _find_stops(bar: BarLike, book: MarketBook) -> tuple[bool, bool]:
    below = above = False
    for order in book.orders.values():
        stop = order.stop
        if stop is not None and order.is_waiting and order.reduces and order.intent.type in _STOPS:
            if order.triggers_rising:
                above = above or stop <= bar.high
            else:
                below = below or stop >= bar.low
    return below, above


def find_strike(book: MarketBook, margin: MarginBook, crossing: Crossing, target: float) -> Strike | None:
    """Return what price meets first between the last price and `target`, or None.

    At one price stops come before liquidation and liquidation before limits, then the older order.
    """
    last = book.last
    if last is None:
        return None
    best: Strike | None = None
    for order in book.orders.values():
        if order.is_waiting:
            found = _strike_of_stop(book, order, last, target)
        else:
            found = _strike_of_working(book, crossing, order, last, target)
        if found is not None and (best is None or found[:2] < best[:2]):
            best = found
    if book.mark is None and not book.band_low < target < book.band_high:
        found = _strike_of_liquidation(book, margin, last, target)
        if found is not None and (best is None or found[:2] < best[:2]):
            best = found
    return best


def _strike_of_stop(book: MarketBook, order: WorkingOrder, last: float, target: float) -> Strike | None:
    stop, price = order.stop, order.stop_price
    if stop is None or price is None or (order.watches_mark and book.mark is not None):
        return None
    if order.is_hit(last):
        return Strike(0.0, _STOP_RANK, last, book.price(), order, [])
    if not order.is_hit(target):
        return None
    if order.intent.type is _TRAILING:
        price = book.instrument.ceil_price(price) if order.is_buy else book.instrument.floor_price(price)
    return Strike(abs(stop - last), _STOP_RANK, stop, price, order, [])


def _strike_of_working(
    book: MarketBook, crossing: Crossing, order: WorkingOrder, last: float, target: float
) -> Strike | None:
    if order.is_arriving or crossing.tradable(book, order) <= ZERO:
        return None
    limit, price = order.limit, order.limit_price
    if limit is None or price is None or crossing.is_reached(order, last):
        return Strike(0.0, _LIMIT_RANK, last, book.price(), order, [])
    if not crossing.is_reached(order, target):
        return None
    return Strike(abs(limit - last), _LIMIT_RANK, limit, price, order, [])


def _strike_of_liquidation(book: MarketBook, margin: MarginBook, last: float, target: float) -> Strike | None:
    if not book.is_band_known:
        book.set_band(margin.band(book.symbol))
    low, high = min(last, target), max(last, target)
    for position in margin.open_positions(book.symbol):
        price = margin.find_liquidation_price(position)
        if price is None or not low <= float(price) <= high:
            continue
        doomed = (
            [position] if margin.modes[book.symbol] == "isolated" else margin.open_positions(mode="cross")
        )
        return Strike(abs(float(price) - last), _LIQUIDATION_RANK, float(price), price, None, doomed)
    return None
