"""Orders against candles: paths, gaps, stop before target, liquidity."""

from decimal import Decimal as D

import pytest

from qmtl.core.event import AnyEvent, OrderFilled
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.engine.candle_path import CandlePath, CandleTick, candle_ticks
from qmtl.engine.matching import MatchingCore
from qmtl.engine.venue_models import CandleShare, VenueModels
from tests.engine.market import fills, make_bar, make_core, make_order, names, traded

LOW_FIRST, HIGH_FIRST = CandlePath.OPEN_LOW_HIGH_CLOSE, CandlePath.OPEN_HIGH_LOW_CLOSE
NONE = MakerTakerFeeModel(D(0), D(0))


def hold(path: CandlePath, *, side: str = "BUY", stops_first: bool = True) -> MatchingCore:
    core = make_core(VenueModels(fees=NONE, path=path, stops_first=stops_first))
    core.submit(make_order("in", side, "1"), 0)
    return core


def protect(core: MatchingCore, stop: float, target: float) -> None:
    core.submit(make_order("stop", "SELL", "1", kind="STOP_MARKET", stop_price=stop, reduce_only=True), 0)
    core.submit(make_order("target", "SELL", "1", kind="LIMIT", limit_price=target, reduce_only=True), 0)


@pytest.mark.parametrize("path", [LOW_FIRST, HIGH_FIRST])
def test_stop_and_target_in_one_bar_is_the_stop(path: CandlePath) -> None:
    core = hold(path)
    protect(core, 95, 105)
    events = core.on_bar("BTCUSDT", make_bar(1, (100, 106, 94, 100)), 120_000)
    assert traded(events) == [("stop", D(1), D(95))]
    assert names(events) == ["OrderFilled", "OrderExpired"]
    assert core.open_orders() == []


@pytest.mark.parametrize("path", [LOW_FIRST, HIGH_FIRST])
def test_a_short_is_stopped_before_its_target_too(path: CandlePath) -> None:
    core = hold(path, side="SELL")
    core.submit(make_order("stop", "BUY", "1", kind="STOP_MARKET", stop_price=105, reduce_only=True), 0)
    core.submit(make_order("target", "BUY", "1", kind="LIMIT", limit_price=95, reduce_only=True), 0)
    assert traded(core.on_bar("BTCUSDT", make_bar(1, (100, 106, 94, 100)), 120_000)) == [
        ("stop", D(1), D(105))
    ]


def test_the_declared_path_alone_decides_when_stops_are_not_first() -> None:
    core = hold(HIGH_FIRST, stops_first=False)
    protect(core, 95, 105)
    assert traded(core.on_bar("BTCUSDT", make_bar(1, (100, 106, 94, 100)), 120_000)) == [
        ("target", D(1), D(105))
    ]


def test_a_target_alone_fills_at_its_price() -> None:
    core = hold(LOW_FIRST)
    protect(core, 90, 105)
    (fill,) = fills(core.on_bar("BTCUSDT", make_bar(1, (100, 106, 94, 100)), 120_000))
    assert (fill.price, fill.is_maker, fill.ts_ms) == (D(105), True, 90_000)


@pytest.mark.parametrize(
    ("bar", "filled"),
    [((93, 94, 92, 93), ("stop", D(1), D(93))), ((107, 108, 106, 107), ("target", D(1), D(107)))],
)
def test_a_gap_through_stop_or_target_fills_at_the_open(
    bar: tuple[float, float, float, float], filled: tuple[str, D, D]
) -> None:
    core = hold(LOW_FIRST)
    protect(core, 95, 105)
    (fill,) = fills(core.on_bar("BTCUSDT", make_bar(1, bar), 120_000))
    assert (fill.client_order_id, fill.quantity, fill.price) == filled
    assert fill.ts_ms == 60_000


def test_an_entry_stop_and_its_answer_share_the_bar() -> None:
    core = make_core(VenueModels(fees=NONE, path=HIGH_FIRST))
    core.submit(make_order("in", "BUY", "1", kind="STOP_MARKET", stop_price=102), 0)
    filled: list[tuple[str, D, D]] = []
    for events in core.walk("BTCUSDT", make_bar(1, (100, 110, 95, 96)), 120_000):
        filled += traded(events)
        if [name for name, _, _ in traded(events)] == ["in"]:
            core.submit(make_order("target", "SELL", "1", kind="LIMIT", limit_price=108, reduce_only=True), 1)
    assert filled == [("in", D(1), D(102)), ("target", D(1), D(108))]


def test_close_only_sees_nothing_inside_the_bar() -> None:
    core = hold(CandlePath.CLOSE_ONLY)
    protect(core, 95, 105)
    assert core.on_bar("BTCUSDT", make_bar(1, (100, 106, 94, 100)), 120_000) == []
    assert traded(core.on_bar("BTCUSDT", make_bar(2, (100, 100, 93, 94)), 180_000)) == [("stop", D(1), D(94))]


def test_a_trailing_stop_inside_one_bar() -> None:
    core = hold(HIGH_FIRST, stops_first=False)
    trail = make_order("t", "SELL", "1", kind="TRAILING_STOP_MARKET", callback_rate=2, reduce_only=True)
    core.submit(trail, 0)
    # High 110 first: the stop stands 2 % below it at 107.8 and is met on the way down.
    assert traded(core.on_bar("BTCUSDT", make_bar(1, (100, 110, 95, 96)), 120_000)) == [
        ("t", D(1), D("107.8"))
    ]


def test_candle_share_fills_a_quarter_per_update() -> None:
    core = make_core(VenueModels(fees=NONE, liquidity=CandleShare()))
    core.submit(make_order("a", "BUY", "5", kind="LIMIT", limit_price=99), 0)
    events = core.on_bar("BTCUSDT", make_bar(1, (98, 98, 97, 98), volume=8.0), 120_000)
    # Open, low and high are beyond the limit: two units at each until the order is full.
    assert traded(events) == [("a", D(2), D(98)), ("a", D(2), D(99)), ("a", D(1), D(99))]


def test_through_needs_a_price_beyond_inside_bars() -> None:
    core = make_core(VenueModels(fees=NONE, limit_fill="through"))
    core.submit(make_order("a", "BUY", "1", kind="LIMIT", limit_price=99), 0)
    assert core.on_bar("BTCUSDT", make_bar(1, (100, 101, 99, 100)), 120_000) == []
    assert traded(core.on_bar("BTCUSDT", make_bar(2, (100, 101, 98.9, 100)), 180_000)) == [("a", D(1), D(99))]


def test_calm_bars_are_not_walked_and_the_next_one_is() -> None:
    core = hold(LOW_FIRST)
    protect(core, 95, 105)
    assert core.on_bar("BTCUSDT", make_bar(1, (100, 101, 99, 100)), 120_000) == []
    book = core.books["BTCUSDT"]
    assert (book.calm_low, book.calm_high) == (95.0, 105.0)
    assert traded(core.on_bar("BTCUSDT", make_bar(2, (100, 101, 95, 100)), 180_000)) == [
        ("stop", D(1), D(95))
    ]


def test_candle_ticks_follow_the_path_and_end_closed() -> None:
    bar = make_bar(3, (100.0, 110.0, 90.0, 105.0), volume=8.0)
    assert candle_ticks(bar, LOW_FIRST) == (
        CandleTick(0, 100.0, 100.0, 100.0, 2.0, False),
        CandleTick(15_000, 90.0, 100.0, 90.0, 4.0, False),
        CandleTick(30_000, 110.0, 110.0, 90.0, 6.0, False),
        CandleTick(59_999, 105.0, 110.0, 90.0, 8.0, True),
    )
    high_first = candle_ticks(bar, HIGH_FIRST, interval_ms=3_600_000)
    assert [tick.price for tick in high_first] == [100.0, 110.0, 90.0, 105.0]
    assert [tick.offset_ms for tick in high_first] == [0, 900_000, 1_800_000, 3_599_999]
    assert [tick.low for tick in high_first] == [100.0, 100.0, 90.0, 90.0]
    assert candle_ticks(bar, CandlePath.CLOSE_ONLY) == (CandleTick(59_999, 105.0, 110.0, 90.0, 8.0, True),)


def test_ticks_and_bars_agree_on_a_stop_that_is_passed() -> None:
    core = hold(LOW_FIRST)
    protect(core, 95, 105)
    bar = make_bar(1, (100.0, 101.0, 94.0, 100.0))
    found: list[AnyEvent] = []
    for tick in candle_ticks(bar, LOW_FIRST):
        found += core.on_price("BTCUSDT", tick.price, bar.open_ms + tick.offset_ms)
    # A tick does not show the prices between: the stop trades at the tick that passed it.
    assert [(type(e), getattr(e, "price", None)) for e in found][:1] == [(OrderFilled, D("94.0"))]
