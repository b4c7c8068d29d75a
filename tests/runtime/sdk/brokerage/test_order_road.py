"""connectors.md §10, items 10 to 18: ids, risk and the journal before anything is sent."""

import asyncio
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.event import IntentRecorded, IntentRefused
from qmtl.core.order import OrderStatus, OrderValidationError
from qmtl.core.reason import TradingState
from qmtl.engine.halt_marker import HaltMarker, write_marker
from qmtl.engine.journal import IntentJournal, JournalError, SqliteJournal
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.http_client import HttpBrokerageClient
from qmtl.runtime.sdk.brokerage.order_road import OrderRoad
from qmtl.runtime.sdk.brokerage.result import OrderNotSent, OrderRejected, RiskRefused
from tests.runtime.leap_clock import LeapClock
from tests.runtime.sdk.brokerage.conftest import close_all
from tests.runtime.sdk.brokerage.http_broker import ROOT, BookHandle
from tests.runtime.sdk.brokerage.orders import buy, client_of


def restart() -> None:
    """What a new process would find: every journal closed."""
    BACKGROUND.run(close_all())


def intents(path: str | Path) -> list[str]:
    with sqlite3.connect(path) as db:
        rows = db.execute("SELECT client_order_id FROM records WHERE type = 'IntentRecorded'").fetchall()
    db.close()
    return [row[0] for row in rows]


def journal_of(client: OrderRoad) -> IntentJournal:
    return client.desk.journal


def test_10_a_full_disk_sends_nothing(book: BookHandle) -> None:
    client = client_of(book)
    client.post_order(buy())
    journal = journal_of(client).journal
    assert isinstance(journal, SqliteJournal)
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    journal._db.execute(f"PRAGMA max_page_count = {pages}")
    number = 0

    def post_until_refused() -> None:
        nonlocal number
        while True:
            client.post_order(buy(client_order_id=f"n{number}", note="x" * 2_000))
            number += 1

    with pytest.raises(JournalError, match="full"):
        post_until_refused()
    assert len(book.asked("POST")) == len(book.orders) == number + 1
    journal._db.execute("PRAGMA max_page_count = 1000000")
    client.post_order(buy(client_order_id=f"n{number}", note="x" * 2_000))
    assert len(book.orders) == number + 2


def test_11_a_known_id_is_answered_without_a_request(book: BookHandle) -> None:
    client = client_of(book)
    first = client.post_order(buy(client_order_id="mine"))
    assert client.post_order(buy(client_order_id="mine", quantity=1.0)) == first
    with pytest.raises(OrderValidationError, match="used for another order"):
        client.post_order(buy(client_order_id="mine", quantity=2))
    restart()
    again = client_of(book).post_order(buy(client_order_id="mine"))
    assert (again.id, again.status, again.quantity) == (first.id, first.status, first.quantity)
    assert len(book.asked()) == 1


def test_a_rejected_id_may_be_sent_again_as_a_new_entry(book: BookHandle) -> None:
    book.set(plan={"POST": ["400"]})
    client = client_of(book)
    with pytest.raises(OrderRejected):
        client.post_order(buy(client_order_id="mine"))
    assert client.post_order(buy(client_order_id="mine")).id == "1"
    restart()
    client = client_of(book)
    client.post_order(buy(client_order_id="mine"))
    entry = journal_of(client).find("mine")
    assert entry is not None
    assert (entry.attempt, entry.order.status) == (2, OrderStatus.ACCEPTED)
    assert len(book.asked("POST")) == 2


def test_an_interrupted_send_is_looked_up_by_the_next_process(book: BookHandle) -> None:
    book.set(plan={"POST": ["accept:wait"]}, always={"LOOKUP": "503"})
    client = client_of(book)
    future = BACKGROUND.start(client._place(buy(client_order_id="mine")))
    while not book.orders:
        pass
    future.cancel()
    restart()
    book.set(always={})
    later = client_of(book)
    settled = later.reconcile()
    assert [(one.client_order_id, one.id) for one in settled] in ([("mine", "1")], [])
    assert later.post_order(buy(client_order_id="mine")).id == "1"
    assert len(book.asked("POST")) == 1


def test_12_an_engines_journal_holds_one_record_and_there_is_no_second_file(
    book: BookHandle, tmp_path: Path
) -> None:
    journal = SqliteJournal(tmp_path / "engine.db", "epoch")
    client = client_of(book, journal=journal)
    client.post_order(buy(client_order_id="mine"))
    client.post_order(buy(client_order_id="mine"))
    assert intents(tmp_path / "engine.db") == ["mine"]
    assert not list(tmp_path.rglob("orders.db"))
    known = journal_of(client).find("mine")
    assert known is not None
    assert known.order.status is OrderStatus.ACCEPTED
    journal.close()


def test_13_a_restored_backup_mints_no_id_again(book: BookHandle, tmp_path: Path) -> None:
    options: dict[str, Any] = {"random": None}
    client = client_of(book, **options)
    client.post_order(buy())
    restart()
    for name in ("orders.db", "orders.db-wal"):
        if Path(name).exists():
            shutil.copy(name, tmp_path / f"backup-{name}")
    later = client_of(book, **options)
    ids = {later.post_order(buy()).client_order_id for _ in range(20)}
    restart()
    shutil.copy(tmp_path / "backup-orders.db", "orders.db")
    restored = client_of(book, **options)
    ids_after = {restored.post_order(buy()).client_order_id for _ in range(20)}
    assert len(ids) == len(ids_after) == 20
    assert not ids & ids_after
    assert len(book.orders) == len({order["client_order_id"] for order in book.orders}) == 41
    assert all(len(one) == 27 and one[0] == "q" and one.isalnum() and one.islower() for one in ids)


CHILD = """
import sys
from qmtl.runtime.sdk import HttpBrokerageClient, JournalError
client = HttpBrokerageClient(sys.argv[1], journal=sys.argv[2])
try:
    client.post_order({"symbol": "BTC/USDT", "side": "BUY", "quantity": 1})
except JournalError as error:
    print(error)
"""


@pytest.mark.parametrize("other_journal", [False, True])
def test_14_a_second_process_on_the_account_is_refused(
    book: BookHandle, configure: Callable[..., None], tmp_path: Path, other_journal: bool
) -> None:
    configure(QMTL_CONNECTORS__WORKER_ID="worker-seven")
    path = tmp_path / "orders.db"
    client_of(book, journal=path).post_order(buy())
    second = subprocess.run(
        [sys.executable, "-c", CHILD, book.url, str(tmp_path / "other.db" if other_journal else path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "worker-seven" in second.stdout, second.stderr
    assert len(book.asked()) == 1


def test_14_clients_of_one_process_share_the_journal(book: BookHandle) -> None:
    one, two = client_of(book), client_of(book)
    first = one.post_order(buy(client_order_id="mine"))
    assert two.post_order(buy(client_order_id="mine")).id == first.id
    assert journal_of(one) is journal_of(two)
    assert len(book.asked()) == 1


def test_15_halted_or_over_a_limit_sends_nothing(book: BookHandle, configure: Callable[..., None]) -> None:
    configure(QMTL_RISK__MAX_ORDER_NOTIONAL="150")
    client = client_of(book)
    order = client.post_order(buy())
    with pytest.raises(RiskRefused) as caught:
        client.post_order(buy(quantity=2))
    assert caught.value.code == "max_order_notional"
    with pytest.raises(RiskRefused) as caught:
        client.post_order({"symbol": "BTC/USDT", "side": "BUY", "quantity": 1})
    assert caught.value.code == "no_mark"
    journal_of(client).set_state(TradingState.HALTED, "test", "stop", 1)
    with pytest.raises(RiskRefused) as caught:
        client.post_order(buy(reduce_only=True))
    assert caught.value.code == "halted"
    refusals = [e.code for _, e in journal_of(client).journal.read() if isinstance(e, IntentRefused)]
    assert refusals == ["max_order_notional", "no_mark", "halted"]
    restart()
    after = client_of(book)
    with pytest.raises(RiskRefused):
        after.post_order(buy())
    assert after.cancel_order(order.id).status is OrderStatus.CANCELED
    assert len(book.asked("POST")) == 1


def test_15_a_halt_marker_beside_the_journal_stops_a_running_client(book: BookHandle) -> None:
    client = client_of(book)
    client.post_order(buy())
    write_marker(Path("orders.db").absolute(), HaltMarker("operator", "stop now", 1))
    with pytest.raises(RiskRefused, match="stop now"):
        client.post_order(buy())
    restart()
    with pytest.raises(RiskRefused, match="halted"):
        client_of(book).post_order(buy())
    assert len(book.asked("POST")) == 1


class HaltingClock(LeapClock):
    """Somebody halts the account while the first wait lasts."""

    async def sleep(self, real_s: float) -> None:
        write_marker(Path("orders.db").absolute(), HaltMarker("operator", "stop now", 1))
        await super().sleep(real_s)


def test_15_an_order_that_waits_for_a_resend_obeys_a_halt(book: BookHandle) -> None:
    book.set(plan={"POST": ["429:2"]})
    with pytest.raises(OrderRejected, match=r"halted: .*stop now"):
        client_of(book, clock=HaltingClock()).post_order(buy())
    assert len(book.asked("POST")) == 1


async def test_a_token_that_cannot_be_had_sends_nothing(book: BookHandle) -> None:
    def no_token() -> str:
        raise OSError("vault is closed")

    with pytest.raises(OrderNotSent, match="token"):
        await client_of(book, token=no_token).post_order_async(buy())
    assert book.asked() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"quantity": 0},
        {"quantity": float("nan")},
        {"quantity": True},
        {"quantity": -1},
        {"quantity": 1, "amount": 2},
        {"quantity": None},
        {"side": "HOLD"},
        {"symbol": ""},
        {"leverage": 2.9},
        {"client_order_id": "with space"},
        {"type": "limit", "limit_price": None},
    ],
)
def test_16_a_wrong_order_is_an_error_and_no_request(book: BookHandle, wrong: dict[str, Any]) -> None:
    with pytest.raises(OrderValidationError):
        client_of(book).post_order(buy(**wrong))
    assert book.asked() == []


def test_16_minus_one_with_sell_sends_one(book: BookHandle) -> None:
    client_of(book).post_order(buy(side="sell", quantity=-1))
    assert (book.orders[0]["side"], book.orders[0]["quantity"]) == ("SELL", 1)


def test_17_a_limit_price_without_type_is_a_limit_order(book: BookHandle) -> None:
    client_of(book).post_order({"symbol": "BTC/USDT", "side": "buy", "quantity": 1, "price": 5})
    assert (book.orders[0]["type"], book.orders[0]["limit_price"]) == ("limit", 5)


async def test_42_a_hung_broker_delays_no_other_task(book: BookHandle) -> None:
    book.set(plan={"POST": ["accept:hold"]})
    client = client_of(book)
    order = asyncio.create_task(client.post_order_async(buy()))
    # This task runs while the broker, which answers only when it is told to, has the order.
    while not book.orders:
        await asyncio.sleep(0.01)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert not order.done()
    book.set(is_held=False)
    assert (await order).id == "1"


async def test_cancelling_an_await_recalls_nothing(book: BookHandle) -> None:
    book.set(plan={"POST": ["hold"]}, always={})
    client = client_of(book)
    task = asyncio.create_task(client.post_order_async(buy(client_order_id="mine")))
    while not book.asked("POST"):
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    book.set(is_held=False)
    while not book.orders:
        await asyncio.sleep(0.01)
    assert (await client.post_order_async(buy(client_order_id="mine"))).id == "1"
    assert len(book.orders) == 1


def test_the_default_journal_is_the_configured_file(
    book: BookHandle, configure: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "deep" / "mine.db"
    configure(QMTL_CONNECTORS__ORDER_JOURNAL=str(path))
    client_of(book, journal=None).post_order(buy(client_order_id="mine"))
    assert intents(path) == ["mine"]
    FakeBrokerageClient().post_order(buy())
    configure(QMTL_RUNTIME__TEST_MODE="true")
    client_of(book, journal=None).post_order(buy())
    assert intents(path) == ["mine"]


def test_24_constructors_ask_nothing_and_show_no_token(book: BookHandle) -> None:
    client = HttpBrokerageClient(book.url, token="s3cret", journal="orders.db")
    assert "s3cret" not in repr(vars(client) | {"repr": repr(client)}) + json.dumps(str(client))
    assert book.asked() == []
    assert not Path("orders.db").exists()


def test_an_intent_of_another_kind_stays_what_it_was(book: BookHandle) -> None:
    journal = IntentJournal(SqliteJournal(Path("other.db"), "epoch"))
    client = client_of(book, journal=journal)
    client.post_order(buy(client_order_id="mine", expire_at=1_700_000_000.5, tif="GTD", leverage=3))
    (event,) = [e for _, e in journal.journal.read() if isinstance(e, IntentRecorded)]
    assert event.intent.expire_ms == 1_700_000_000_500
    assert json.loads(event.body)["leverage"] == "3"
    journal.close()
