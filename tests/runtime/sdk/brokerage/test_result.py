"""Broker answers as typed results."""

from decimal import Decimal

import pytest

from qmtl.core.order import BrokerageError, OrderStatus
from qmtl.runtime.sdk.brokerage import result as results
from qmtl.runtime.sdk.brokerage.result import OrderNotSent, OrderResult, OrderUnknown, VenueUnavailable


def test_an_answer_keeps_its_words_and_gains_types() -> None:
    result = OrderResult({"id": 7, "status": "FILLED", "amount": 1.5, "average": 99.5, "fee": {"cost": 0.1}})
    assert (result["id"], result["status"], result["client_order_id"]) == ("7", "FILLED", "")
    assert (result.status, result.done) == (OrderStatus.FILLED, True)
    assert (result.quantity, result.filled, result.remaining) == (Decimal("1.5"), Decimal("1.5"), Decimal(0))
    assert (result.average_price, result.fee) == (Decimal("99.5"), Decimal("0.1"))


def test_no_status_means_accepted() -> None:
    result = OrderResult({}, client_order_id="q1", quantity=Decimal(2), http_status=202)
    assert (result.status, result.done, result.id, result.client_order_id) == (
        OrderStatus.ACCEPTED,
        False,
        "",
        "q1",
    )
    assert (result.quantity, result.filled, result.remaining) == (Decimal(2), None, Decimal(2))


@pytest.mark.parametrize(
    ("word", "filled", "status", "done"),
    [
        ("open", "0.4", OrderStatus.PARTIALLY_FILLED, False),
        ("closed", "0.4", OrderStatus.CANCELED, True),
        ("Pending-Cancel", "0", OrderStatus.PENDING_CANCEL, False),
        ("expired_in_match", "0", OrderStatus.EXPIRED, True),
        ("frobnicated", "0", OrderStatus.UNKNOWN, False),
    ],
)
def test_words(word: str, filled: str, status: OrderStatus, done: bool) -> None:
    result = OrderResult({"status": word, "quantity": "1", "filled": filled})
    assert (result.status, result.done, result["status"]) == (status, done, word)


def test_a_number_that_is_none_is_named() -> None:
    with pytest.raises(ValueError, match="filled"):
        OrderResult({"filled": "lots"})


def test_one_family_of_errors() -> None:
    kinds = [
        kind for kind in vars(results).values() if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(kinds) == 13
    assert all(issubclass(kind, BrokerageError) for kind in kinds)
    assert all(issubclass(kind, ConnectionError) for kind in (OrderNotSent, OrderUnknown, VenueUnavailable))
