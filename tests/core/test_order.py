"""The table of order states, and the words brokers use for them."""

from decimal import Decimal

import pytest

from qmtl.core.order import DONE, TRANSITIONS, OrderStatus, parse_status

STATES = list(OrderStatus)
# rows: the state an order is in; columns in the order of OrderStatus; x = allowed
TABLE = """
                  init subm acce part pend unkn fill canc expi reje
initialized        .    x    .    .    .    .    .    .    .    x
submitted          .    .    x    x    x    x    x    x    x    x
accepted           .    .    .    x    x    .    x    x    x    x
partially_filled   .    .    .    x    x    .    x    x    x    .
pending_cancel     .    .    x    x    .    .    x    x    x    .
unknown            .    .    x    x    x    .    x    x    x    x
filled             .    .    .    .    .    .    .    .    .    .
canceled           .    .    .    .    .    .    x    .    .    .
expired            .    .    .    .    .    .    x    .    .    .
rejected           .    .    .    .    .    .    .    .    .    .
"""
ROWS = {line.split()[0]: line.split()[1:] for line in TABLE.strip().splitlines()[1:]}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("to", STATES)
def test_every_pair_of_states_is_decided(state: OrderStatus, to: OrderStatus) -> None:
    assert (to in TRANSITIONS[state]) == (ROWS[state][STATES.index(to)] == "x")


def test_a_done_order_only_ever_becomes_filled() -> None:
    assert {state for state in DONE if TRANSITIONS[state]} == {OrderStatus.CANCELED, OrderStatus.EXPIRED}


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("new open accepted acknowledged pending working live NEW Open", OrderStatus.ACCEPTED),
        ("pending_cancel canceling PENDING-CANCEL", OrderStatus.PENDING_CANCEL),
        ("partially_filled partial Partially-Filled", OrderStatus.PARTIALLY_FILLED),
        ("filled completed complete done closed executed", OrderStatus.FILLED),
        ("canceled cancelled", OrderStatus.CANCELED),
        ("rejected denied", OrderStatus.REJECTED),
        ("expired expired_in_match", OrderStatus.EXPIRED),
        ("frobnicated suspended -", OrderStatus.UNKNOWN),
    ],
)
def test_broker_words(words: str, status: OrderStatus) -> None:
    assert {parse_status(word) for word in words.split()} == {status}


@pytest.mark.parametrize(
    ("word", "filled", "status"),
    [
        ("open", "0", OrderStatus.ACCEPTED),
        ("open", "0.4", OrderStatus.PARTIALLY_FILLED),
        ("open", "1", OrderStatus.ACCEPTED),
        ("closed", "0.4", OrderStatus.CANCELED),
        ("closed", "1", OrderStatus.FILLED),
        ("closed", "0", OrderStatus.FILLED),
        ("canceled", "0.4", OrderStatus.CANCELED),
    ],
)
def test_fills_correct_words_that_overstate(word: str, filled: str, status: OrderStatus) -> None:
    assert parse_status(word, filled=Decimal(filled), quantity=Decimal(1)) is status


def test_words_with_a_space() -> None:
    assert parse_status(" Partially Filled ") is OrderStatus.PARTIALLY_FILLED
