"""Where intents stand: folded from clients' and engines' records alike."""

from decimal import Decimal as D

import pytest

from qmtl.core import event as ev
from qmtl.core.event import IntentRecorded, OrderReported, StateChanged
from qmtl.core.order import OrderIntent, OrderStatus, Side
from qmtl.core.reason import TradingState
from qmtl.engine import intents as module
from qmtl.engine.intents import Intents, symbol_key
from qmtl.engine.journal import IntentJournal
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.replay import replay
from tests.engine.rig import Rig, intent

S = OrderStatus


def wish(**fields: object) -> OrderIntent:
    given: dict[str, object] = {
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "quantity": D(2),
        "limit_price": D(100),
    }
    return OrderIntent(**(given | fields))  # type: ignore[arg-type]


def recorded(key: str, account: str = "a", **fields: object) -> IntentRecorded:
    return IntentRecorded(1, key, 1, wish(**fields), account, "{}")


def report(key: str, status: S, **fields: object) -> OrderReported:
    return OrderReported(2, key, status, **fields)  # type: ignore[arg-type]


def test_totals_become_fills_once() -> None:
    book = Intents()
    book.fold(recorded("q1"))
    part = report(
        "q1", S.PARTIALLY_FILLED, venue_order_id="7", filled=D(1), average_price=D(90), fee=D("0.1")
    )
    for event in (part, part, report("q1", S.FILLED, filled=D(2), average_price=D(95), fee=D("0.3"))):
        book.fold(event)
    order = book.entries["q1"].order
    assert (order.status, order.filled, order.average_price) == (S.FILLED, D(2), D(95))
    account = book.risk("a").account
    assert (account.net_quantity("BTCUSDT"), account.fees) == (D(2), D("0.3"))
    account.check_conservation()
    assert book.by_venue_id["a", "7"] == "q1"
    assert book.risk("b").account.net_quantity("BTCUSDT") == 0


def test_unknown_blocks_its_account_and_symbol_until_the_last_is_settled() -> None:
    book = Intents()
    for key in ("q1", "q2"):
        book.fold(recorded(key))
        book.fold(report(key, S.UNKNOWN, reason="silence"))
    book.fold(report("q1", S.ACCEPTED))
    assert "silence" in book.risk("a").blocked["BTCUSDT"]
    assert not book.risk("b").blocked
    assert [entry.order.client_order_id for entry in book.unsettled("a")] == ["q2"]
    book.fold(report("q2", S.REJECTED, reason="absent"))
    assert not book.risk("a").blocked
    assert list(book.risk("a").working) == ["q1"]


def test_illegal_and_foreign_news_change_nothing() -> None:
    book = Intents()
    book.fold(recorded("q1"))
    book.fold(report("q1", S.CANCELED))
    book.fold(report("q1", S.ACCEPTED))
    book.fold(report("nobody", S.FILLED))
    assert book.entries["q1"].order.status is S.CANCELED
    assert list(book.entries) == ["q1"]


def test_a_trading_state_holds_for_accounts_that_come_later() -> None:
    book = Intents()
    book.fold(StateChanged(1, TradingState.HALTED, "test", "why"))
    assert (book.risk("new").state, book.risk("new").state_why) == (TradingState.HALTED, "why")


def test_old_ended_orders_are_read_from_the_journal_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    journal = IntentJournal(MemoryJournal("epoch"))
    for key in ("q1", "q2", "q3"):
        journal.record(recorded(key))
        journal.report(report(key, S.FILLED, filled=D(2), average_price=D(100)))
    assert "q1" not in journal.intents.entries
    entry = journal.find("q1")
    assert entry is not None
    assert entry.order.status is S.FILLED
    assert journal.intents.risk("a").account.net_quantity("BTCUSDT") == D(6)
    assert journal.find("q9") is None


def test_an_engine_replays_past_what_clients_recorded_in_its_journal() -> None:
    rig = Rig()
    rig.strategy.at_price = lambda ctx, update: ctx.submit(intent(limit="60000"))
    client = IntentJournal(rig.memory)
    rig.give(ev.PriceUpdated(rig.now, "BTCUSDT", rig.now, 60_000, 60_000, 60_000, 60_000, 1))
    (order,) = rig.sent()
    client.record(recorded("client-order"))
    rig.accept(order)
    client.report(report("client-order", S.ACCEPTED, venue_order_id="8"))
    rig.fill(order)
    client.refresh()
    known = client.find(order.client_order_id)
    assert known is not None
    assert known.order.status is S.FILLED
    replayed = replay(rig.memory.read(), lambda _: rig.strategy)
    assert replayed is not None
    assert replayed.engine.account.net_quantity("BTCUSDT") == order.intent.quantity


@pytest.mark.parametrize("text", ["BTC/USDT", "btcusdt", "BTC/USDT:USDT", " btc/usdt "])
def test_one_market_has_one_key(text: str) -> None:
    assert symbol_key(text) == "BTCUSDT"
    assert symbol_key("aapl") == "AAPL"
