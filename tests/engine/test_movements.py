"""Funding and transfers are booked once, though the stream and the history both tell of them."""

from decimal import Decimal as D

from qmtl.core import event as ev
from qmtl.engine.state import FINISHED_KEPT, parse_state
from tests.engine.rig import Rig


def test_a_movement_told_twice_is_booked_once() -> None:
    rig = Rig()
    for _ in range(2):
        rig.give(ev.FundingPaid(rig.now, "BTCUSDT", D("-0.5"), "8:USDT:-0.5"))
        rig.give(ev.Transferred(rig.now, "USDT", D(10), "9:USDT:10"))
    assert rig.engine.account.wallet == D("10009.5")
    assert rig.engine.account.funding == D("-0.5")


def test_movements_without_an_id_are_all_booked() -> None:
    rig = Rig()
    for _ in range(2):
        rig.give(ev.FundingPaid(rig.now, "BTCUSDT", D("-0.5")))
    assert rig.engine.account.funding == D(-1)


def test_the_memory_is_bounded_and_survives_a_restart() -> None:
    rig = Rig()
    for number in range(FINISHED_KEPT + 10):
        rig.give(ev.FundingPaid(rig.now, "BTCUSDT", D(1), f"{number}:USDT:1"))
    booked = parse_state(rig.engine.snapshot()).booked
    assert len(booked) == FINISHED_KEPT
    assert f"{FINISHED_KEPT + 9}:USDT:1" in booked
