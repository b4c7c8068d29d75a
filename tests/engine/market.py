"""One market and its orders, as the tests of the simulator need them."""

from collections.abc import Iterable
from decimal import Decimal as D
from typing import Any

from qmtl.core.event import AnyEvent, BarClosed, OrderFilled
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order, OrderIntent, OrderType, Side
from qmtl.engine.matching import MatchingCore
from qmtl.engine.venue_models import VenueModels

MINUTE_MS = 60_000
BTC = Instrument(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=D("0.1"),
    lot_size=D("0.001"),
    min_quantity=D("0.001"),
    max_quantity=D(1000),
    market_max_quantity=D(120),
    min_notional=D(5),
)
NO_FEES = VenueModels(fees=MakerTakerFeeModel(D(0), D(0)))


def make_core(models: VenueModels = NO_FEES, *, price: float | None = 100.0, **settings: Any) -> MatchingCore:
    core = MatchingCore({"BTCUSDT": BTC}, models=models, **settings)
    if price is not None:
        core.on_price("BTCUSDT", price, 0)
    return core


def make_order(cid: str, side: str, quantity: str, *, kind: str = "MARKET", **fields: Any) -> Order:
    for name in ("limit_price", "stop_price", "callback_rate", "activation_price"):
        if fields.get(name) is not None:
            fields[name] = D(str(fields[name]))
    intent = OrderIntent(
        symbol="BTCUSDT", side=Side(side), quantity=D(quantity), type=OrderType(kind), **fields
    )
    return Order(client_order_id=cid, intent=intent, ordinal=0, created_ms=0, updated_ms=0)


def make_bar(number: int, prices: tuple[float, float, float, float], volume: float = 10.0) -> BarClosed:
    o, h, lo, c = prices
    open_ms = number * MINUTE_MS
    return BarClosed(open_ms + MINUTE_MS, "BTCUSDT", open_ms, o, h, lo, c, volume)


def names(events: Iterable[AnyEvent]) -> list[str]:
    return [type(event).__name__ for event in events]


def fills(events: Iterable[AnyEvent]) -> list[OrderFilled]:
    return [event for event in events if isinstance(event, OrderFilled)]


def traded(events: Iterable[AnyEvent]) -> list[tuple[str, D, D]]:
    return [(fill.client_order_id, fill.quantity, fill.price) for fill in fills(events)]
