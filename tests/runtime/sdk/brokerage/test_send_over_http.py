"""connectors.md §10, items 3 to 8 and 22: one intent is one order whatever HTTP does."""

import pytest

from qmtl.core.order import OrderStatus
from qmtl.runtime.sdk.brokerage.http_client import HttpBrokerageClient
from qmtl.runtime.sdk.brokerage.result import (
    CancelFailed,
    InstrumentBlocked,
    OrderNotFound,
    OrderNotSent,
    OrderRejected,
    OrderUnknown,
    VenueUnavailable,
)
from tests.runtime.sdk.brokerage.http_broker import BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of, slept_s


def test_an_order_arrives_whole_and_once(book: BookHandle) -> None:
    result = client_of(book).post_order(buy(note="mine", tif="gtc"))
    (asked,) = book.asked("POST")
    assert asked["body"] == {
        "symbol": "BTC/USDT",
        "side": "BUY",
        "quantity": 1,
        "type": "limit",
        "limit_price": 100,
        "time_in_force": "GTC",
        "note": "mine",
        "client_order_id": asked["key"],
    }
    assert result.id == "1"
    assert result.client_order_id == asked["key"]
    assert result.status is OrderStatus.ACCEPTED
    assert result.http_status == 201


def test_03_accepted_and_answered_too_late(book: BookHandle) -> None:
    book.set(plan={"POST": ["accept:wait"]})
    result = client_of(book).post_order(buy())
    assert result.id == "1"
    assert len(book.orders) == len(book.asked("POST")) == 1


def test_04_400_is_final(book: BookHandle) -> None:
    book.set(plan={"POST": ["400"]})
    client = client_of(book)
    with pytest.raises(OrderRejected, match="as planned") as caught:
        client.post_order(buy())
    assert (caught.value.http_status, len(book.asked()), slept_s(client)) == (400, 1, 0)


def test_05_429_with_retry_after(book: BookHandle) -> None:
    book.set(plan={"POST": ["429:2"]})
    client = client_of(book)
    client.post_order(buy())
    first, second = book.asked("POST")
    assert first["key"] == second["key"]
    assert slept_s(client) >= 2
    assert len(book.orders) == 1


def test_05_a_long_retry_after_raises_and_holds_every_call(book: BookHandle) -> None:
    book.set(plan={"POST": ["429:61"]})
    client = client_of(book)
    with pytest.raises(OrderNotSent) as caught:
        client.post_order(buy())
    assert caught.value.retry_after_s is not None
    assert caught.value.retry_after_s > 60
    with pytest.raises(OrderNotSent):
        client.post_order(buy(symbol="ETH/USDT"))
    with pytest.raises(VenueUnavailable):
        client.poll_order_status({"id": "1"})
    assert len(book.asked()) == 1


def test_06_503_everywhere_blocks_the_instrument(book: BookHandle) -> None:
    client = client_of(book)
    other = client.post_order(buy(symbol="ETH/USDT"))
    book.set(always={"POST": "503", "LOOKUP": "503"})
    with pytest.raises(OrderUnknown) as caught:
        client.post_order(buy(client_order_id="mine"))
    assert caught.value.client_order_id == "mine"
    assert [one["key"] for one in book.asked("POST")][1:] == ["mine"]
    # Lookups stay without answer, or the client's own settling may have lifted the block by now.
    book.set(always={"LOOKUP": "503"})
    with pytest.raises(InstrumentBlocked):
        client.post_order(buy(symbol="BTCUSDT"))
    assert client.post_order(buy(symbol="ETH/USDT", quantity=2)).id == "2"
    book.set(always={})
    assert client.cancel_order(other.id).status is OrderStatus.CANCELED
    settled = client.reconcile()
    assert [(one.client_order_id, one.status, one.reason) for one in settled] in (
        [("mine", OrderStatus.REJECTED, "absent")],
        [],  # the client's own settling was faster
    )
    assert client.post_order(buy()).id == "3"


@pytest.mark.parametrize(("max_retries", "attempts"), [(3, 4), (0, 1)])
def test_07_connection_refused(free_port: int, max_retries: int, attempts: int) -> None:
    book = BookHandle(f"http://127.0.0.1:{free_port}", "nobody")
    client = client_of(book, max_retries=max_retries)
    with pytest.raises(OrderNotSent) as caught:
        client.post_order(buy(client_order_id="mine"))
    assert isinstance(caught.value, ConnectionError)
    pauses = client.clock.slept  # type: ignore[attr-defined]
    assert len(pauses) == attempts - 1
    entry = client.desk.journal.find("mine")
    assert entry is not None
    assert (entry.order.status, entry.order.reason) == (OrderStatus.REJECTED, "not_sent")


@pytest.mark.parametrize("word", ["open", "rejected", "FILLED"])
def test_08_what_a_lookup_finds_is_the_answer(book: BookHandle, word: str) -> None:
    book.set(plan={"POST": ["accept:503"]}, status=word)
    result = client_of(book).post_order(buy())
    assert result["status"] == word
    assert len(book.asked("POST")) == 1


def test_08_absent_at_once_present_later(book: BookHandle) -> None:
    book.set(plan={"POST": ["later"]})
    client = client_of(book)
    client.post_order(buy())
    assert len(book.orders) == len(book.asked("POST")) == 1
    assert slept_s(client) >= 4.9


def test_a_reset_before_anything_was_taken_is_sent_again_after_the_window(book: BookHandle) -> None:
    book.set(plan={"POST": ["reset"]})
    client = client_of(book)
    client.post_order(buy())
    assert len(book.orders) == 1
    assert len(book.asked("LOOKUP")) == 2
    assert slept_s(client) >= 4.9


def test_duplicate_delivery_under_one_key_is_one_order(book: BookHandle) -> None:
    book.set(plan={"POST": ["twice"]}, dedup=True)
    client_of(book).post_order(buy())
    assert len(book.orders) == 1


@pytest.mark.parametrize("answer", ["404", "405", "501"])
def test_a_broker_without_lookup_leaves_the_outcome_unknown(book: BookHandle, answer: str) -> None:
    book.set(plan={"POST": ["accept:503"]}, always={"LOOKUP": answer})
    with pytest.raises(OrderUnknown):
        client_of(book).post_order(buy())
    assert len(book.orders) == 1


def test_22_a_failing_cancel_says_so(book: BookHandle) -> None:
    client = client_of(book)
    order = client.post_order(buy())
    book.set(always={"DELETE": "500"})
    with pytest.raises(VenueUnavailable):
        client.cancel_order(order.id)
    assert len(book.asked("DELETE")) == 4
    book.set(always={"DELETE": "403"})
    with pytest.raises(CancelFailed):
        client.cancel_order(order.id)
    book.set(always={})
    with pytest.raises(OrderNotFound):
        client.cancel_order("77")


def test_22_a_cancel_of_a_filled_order_answers_filled(book: BookHandle) -> None:
    book.set(status="filled")
    client = client_of(book)
    order = client.post_order(buy())
    assert client.cancel_order(order.id).status is OrderStatus.FILLED
    assert [one["kind"] for one in book.asked()] == ["POST", "DELETE", "GET"]


def test_polling_returns_open_states_and_is_bounded(book: BookHandle) -> None:
    client = client_of(book, max_retries=2)
    order = client.post_order(buy())
    open_result = client.poll_order_status({"id": order.id})
    assert open_result is not None
    assert not open_result.done
    assert len(book.asked("GET")) == 3
    assert client.poll_order_status({"id": "77"}) is None
    assert client.poll_order_status(buy()) is None
    by_client_id = client.poll_order_status({"client_order_id": order.client_order_id})
    assert by_client_id is not None
    assert by_client_id.id == order.id
    book.set(always={"GET": "502"})
    with pytest.raises(VenueUnavailable):
        client.poll_order_status({"id": order.id})


@pytest.mark.parametrize("url", ["broker/orders", "ftp://broker/orders", "https://"])
def test_a_url_that_is_none(url: str) -> None:
    with pytest.raises(ValueError, match="url: expected an http"):
        HttpBrokerageClient(url)
