"""The Bollinger trader on the engine: entries, exits, gates, time-outs, and what survives a restart."""

from decimal import Decimal

import msgspec
import pytest

from qmtl.core.event import IntentRefused
from qmtl.core.order import OrderStatus, OrderType, Role, Side
from qmtl.trader.callback import Callback
from qmtl.trader.decision import DecisionParams
from tests.trader.candles import MINUTE_MS
from tests.trader.desk import Desk

UP, DOWN, CALM = 60_070.0, 59_930.0, 60_000.0


def desk(**params: object) -> Desk:
    made = Desk(Callback(DecisionParams(has_volatility_gate=False, **params)))  # type: ignore[arg-type]
    made.wave()
    return made


def test_a_break_is_entered_once_and_left_at_its_stop() -> None:
    d = desk()
    d.price(CALM)
    assert d.sent == []
    d.price(UP)
    (entry,) = d.sent
    assert (entry.intent.side, entry.intent.role, entry.intent.limit_price) == (
        Side.BUY,
        Role.ENTRY,
        Decimal("60076.0"),
    )
    assert d.held == Decimal("0.010")
    d.price(60_004.0)
    assert len(d.sent) == 1
    d.price(60_003.9)
    exit_ = d.sent[1].intent
    assert (exit_.side, exit_.quantity, exit_.reduce_only, exit_.why) == (
        Side.SELL,
        Decimal("0.010"),
        True,
        "stop",
    )
    assert d.held == 0
    assert len(d.sent) == 2
    assert {order.intent.bar_ms for order in d.sent} == {d.at // MINUTE_MS * MINUTE_MS}


def test_short_is_the_mirror() -> None:
    d = desk()
    d.price(DOWN)
    assert d.held == Decimal("-0.010")
    d.price(DOWN * 0.998)
    assert [order.intent.why for order in d.sent] == ["below lower band", "target"]
    assert d.held == 0


def test_one_closing_sell_never_books_a_short() -> None:
    """Partial entry, rest cancelled, exit: exactly what was filled is sold, reduce-only."""
    d = desk()
    d.venue.share = Decimal("0.4")
    d.price(UP)
    assert d.held == Decimal("0.004")
    d.venue.share = Decimal(1)
    d.price(59_000.0)
    assert d.venue.cancelled == [d.sent[0]]
    assert d.sent[0].status is OrderStatus.CANCELED
    assert d.sent[0].filled == Decimal("0.004")
    assert [(o.intent.quantity, o.intent.reduce_only) for o in d.sent[1:]] == [(Decimal("0.004"), True)]
    assert d.held == 0
    d.price(58_000.0)
    assert len(d.sent) == 2


def test_partial_fill_then_cancel_leaves_the_filled_quantity() -> None:
    d = desk()
    d.venue.share = Decimal("0.4")
    d.price(UP)
    d.price(UP + 1, after_ms=29_998)
    assert d.venue.cancelled == []
    d.price(UP + 1, after_ms=10)
    assert d.venue.cancelled == [d.sent[0]]
    assert (d.held, len(d.sent)) == (Decimal("0.004"), 1)


def test_an_unfilled_entry_is_cancelled_after_30_real_seconds() -> None:
    for speed in (1.0, 60.0, 7.3):
        d = Desk(Callback(DecisionParams(has_volatility_gate=False)), speed=speed)
        d.wave()
        d.venue.share = Decimal(0)
        d.price(UP)
        d.price(UP, after_ms=int(29_990 * speed))
        assert d.venue.cancelled == []
        d.price(CALM, after_ms=int(20 * speed))
        assert d.venue.cancelled == d.sent[:1]
        assert d.held == 0


def test_an_exit_unfilled_after_5_real_seconds_is_sent_as_market() -> None:
    d = desk()
    d.price(UP)
    d.venue.share = Decimal(0)
    d.price(59_000.0)
    assert d.sent[1].intent.type is OrderType.LIMIT
    d.price(60_060.0, after_ms=4_998)
    assert len(d.sent) == 2
    d.price(60_060.0, after_ms=10)
    assert d.sent[1].status is OrderStatus.CANCELED
    market = d.sent[2].intent
    assert (market.type, market.reduce_only, market.quantity) == (OrderType.MARKET, True, Decimal("0.010"))
    assert d.held == 0


def test_market_takes_only_what_a_partial_exit_left() -> None:
    d = desk()
    d.price(UP)
    d.venue.share = Decimal("0.3")
    d.price(59_000.0)
    d.price(59_000.0, after_ms=5_001)
    assert [o.intent.quantity for o in d.sent] == [Decimal("0.010"), Decimal("0.010"), Decimal("0.007")]
    assert d.held == 0


def test_the_exit_waits_for_the_entry_to_be_gone_but_not_for_ever() -> None:
    d = desk()
    d.venue.share = Decimal("0.4")
    d.price(UP)
    d.venue.holds_cancels = True
    d.price(59_000.0)
    d.price(59_000.0, after_ms=4_000)
    assert (len(d.sent), len(d.venue.cancelled)) == (1, 1)
    d.price(59_000.0, after_ms=1_001)
    assert [o.intent.quantity for o in d.sent[1:]] == [Decimal("0.004")]


def test_a_rejected_exit_is_tried_again_as_market_after_the_time_out() -> None:
    d = desk()
    d.price(UP)
    d.venue.rejects = {Role.EXIT}
    d.price(59_000.0)
    d.price(59_000.0)
    d.price(59_000.0)
    assert len(d.sent) == 2
    d.venue.rejects = set()
    d.price(59_000.0, after_ms=5_001)
    assert d.sent[2].intent.type is OrderType.MARKET
    assert d.held == 0


def test_cooldown_counts_exchange_time_from_the_last_trade() -> None:
    d = desk(stop=Decimal("0.5"))
    d.price(UP)
    d.price(UP * 1.01)
    assert len(d.sent) == 2
    assert not d.held
    traded_ms = d.at
    while d.at < traded_ms + 240_000:
        d.bar(CALM)
    d.price(UP, after_ms=traded_ms + 299_999 - d.at)
    assert len(d.sent) == 2
    d.price(UP, after_ms=1)
    assert len(d.sent) == 3
    d.bar(UP)
    assert d.decisions[-1].reason == "entered"


def test_refusals_of_the_strategy_name_their_gate_and_numbers() -> None:
    d = desk()
    d.price(UP)
    d.price(UP * 1.01)
    d.bar(CALM)
    d.price(UP)
    d.bar(CALM)
    decision = d.decisions[-1]
    assert (decision.reason, decision.gate) == ("refused", "cooldown")
    assert decision.numbers is not None
    assert decision.numbers["close"] == CALM
    d = Desk(Callback())
    d.wave()
    d.bar(63_000.0, warmup=True)
    d.price(50_000.0)
    d.bar(CALM)
    assert (d.decisions[-1].reason, d.decisions[-1].gate, d.sent) == ("refused", "volatility", [])


def test_an_amount_below_the_least_is_a_refusal() -> None:
    d = desk(notional=Decimal(20))
    d.price(UP)
    d.bar(UP)
    assert (d.decisions[-1].reason, d.decisions[-1].gate, d.sent) == ("refused", "size", [])


@pytest.mark.parametrize(
    ("params", "quantity"),
    [
        ({"quantity": Decimal("0.0257")}, "0.025"),
        ({"notional": Decimal(1_000)}, "0.016"),
        ({"size_pct": Decimal("0.5")}, "0.083"),
    ],
)
def test_size_is_quantity_notional_or_share_of_equity(params: dict[str, object], quantity: str) -> None:
    d = desk(**params)
    d.price(UP)
    assert d.sent[0].intent.quantity == Decimal(quantity)


def test_bars_before_the_start_and_late_ones_never_trade() -> None:
    d = desk()
    d.bar(UP, warmup=True)
    d.bar(59_000.0, refilled=True)
    assert d.sent == []
    assert [e for e in d.journal.events if isinstance(e, IntentRefused)] == []
    assert [x.reason for x in d.decisions[-2:]] == ["warming_up", "refilled"]


def test_every_bar_has_its_numbers() -> None:
    d = desk()
    d.bar(CALM)
    decision = d.decisions[-1]
    assert decision.reason == "no_signal"
    numbers = decision.numbers
    assert numbers is not None
    assert numbers["lowerBand"] < numbers["lowerInter"] < CALM < numbers["upperInter"] < numbers["upperBand"]
    nearest = min(numbers["upperInter"] - CALM, CALM - numbers["lowerInter"])
    assert numbers["distance"] == pytest.approx(nearest / CALM)


def test_a_saved_strategy_goes_on_as_if_nothing_had_happened() -> None:
    """At every step: a copy made from plain data decides the same from here on."""
    steps = [CALM, UP, UP + 3, 59_000.0, CALM, DOWN, DOWN, 60_200.0, CALM, UP]
    whole = desk()
    whole.venue.share = Decimal("0.5")
    cut = desk()
    cut.venue.share = Decimal("0.5")
    for number, price in enumerate(steps * 3):
        for d in (whole, cut):
            d.price(price, after_ms=2_600)
            if number % 4 == 3:
                d.bar(price)
        body = msgspec.msgpack.decode(msgspec.msgpack.encode(cut.engine.strategy.dump_state()))
        fresh = Callback.from_params({"has_volatility_gate": False})
        fresh.load_state(body)
        assert fresh.dump_state() == cut.engine.strategy.dump_state()
        cut.engine.strategy = fresh
        assert cut.engine.state_hash() == whole.engine.state_hash()
    assert len(whole.sent) > 4
    assert cut.journal.events == whole.journal.events


def test_parameters_come_as_plain_data() -> None:
    made = Callback.from_params({"stop": "0.002", "window": 30, "notional": 250, "interval": "5m"})
    assert (made.params.stop, made.bands.window, made.params.notional) == (Decimal("0.002"), 30, Decimal(250))
    assert made.bands.interval_ms == 300_000
    assert made.warmup == 31
    with pytest.raises(msgspec.ValidationError, match="windw"):
        Callback.from_params({"windw": 30})
