"""The seven steps of a publisher's order (connectors §6); numbers are those of its acceptance list."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.event import IntentRecorded
from qmtl.core.order import OrderStatus, OrderValidationError
from qmtl.engine.halt_marker import HaltMarker, write_marker
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.result import DomainViolation, OrderRejected, RiskRefused
from qmtl.runtime.sdk.brokerage.trade_execution_service import TradeExecutionService
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.runner import Runner
from tests.runtime.sdk.runner_rig import (
    Bars,
    Broker,
    EveryBar,
    FiringTradeOrderPublisher,
    Sink,
    order,
    price_of,
    publish,
    serve_broker,
)


@pytest.fixture
def broker() -> Iterator[Broker]:
    with serve_broker() as one:
        yield one


def service(broker: Broker) -> TradeExecutionService:
    return TradeExecutionService(broker.url, max_retries=0, backoff=0)


@pytest.mark.parametrize(
    ("limits", "halted", "code"),
    [({}, True, "halted"), ({"MAX_ORDER_NOTIONAL": "1"}, False, "max_order_notional")],
)
def test_15_a_halt_or_a_limit_drops_orders_and_cancels_pass(
    runner: type[Runner],
    broker: Broker,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, str],
    halted: bool,
    code: str,
) -> None:
    for name, value in limits.items():
        monkeypatch.setenv(f"QMTL_RISK__{name}", value)
    if halted:
        write_marker(home / ".qmtl" / "orders.db", HaltMarker("test", "stop", 1))
    runner.set_trade_mode("live")
    client = service(broker)
    runner.set_trade_execution_service(client)
    publish(runner, order(type="limit", limit_price=50_000))
    assert runner.road.counts == {f"refused:{code}": 1}
    with pytest.raises(RiskRefused) as refused:
        client.post_order(order(type="limit", limit_price=50_000))
    assert refused.value.code == code
    assert broker.calls == []
    assert client.cancel_order("7").status is OrderStatus.CANCELED
    assert broker.methods() == ["DELETE"]


def test_15_without_a_price_the_publishers_latest_close_is_the_mark(
    runner: type[Runner], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QMTL_RISK__MAX_ORDER_NOTIONAL", "1000")
    runner.set_trade_mode("live")
    runner.set_trade_execution_service(service(broker))
    result = runner.submit(EveryBar)
    feed = price_of(result)
    runner.feed_queue_data(feed, "q", 60, 60, {"close": 50_000.0})
    assert [body["quantity"] for _, _, body in broker.calls] == [0.01]
    runner.feed_queue_data(feed, "q", 60, 120, {"close": 200_000.0})
    assert runner.road.counts == {"sent": 1, "refused:max_order_notional": 1}
    runner.feed_queue_data(feed, "q", 60, 180, {"no": "price"})
    assert runner.road.counts["refused:max_order_notional"] == 2, "the last known close still counts"
    assert broker.methods() == ["POST"]


@pytest.mark.parametrize(
    ("domain", "replay"),
    [("backtest", False), ("dryrun", False), ("live", True), ("live", False), (None, False)],
)
def test_27_nine_replayed_bars_send_nothing(
    runner: type[Runner], broker: Broker, domain: str | None, replay: bool
) -> None:
    EveryBar.provider = Bars(9)
    runner.set_trade_execution_service(service(broker))
    result = runner.submit(EveryBar, domain=domain, start=600, end=600 + 9 * 60, replay=replay)
    assert broker.calls == []
    assert result.journal is not None
    intents = [e for _, e in result.journal.read() if isinstance(e, IntentRecorded)]
    assert len(intents) == 9, "the simulated venue got them"
    assert runner.road.counts == {"skipped_domain": 9, "sent": 9}


TABLE: dict[tuple[str, bool], set[str | None]] = {
    ("backtest", False): {"memory"},
    ("dryrun", False): {"memory", "sandbox"},
    ("shadow", False): set(),
    ("live", False): {"memory", "sandbox", "live", None},
    ("backtest", True): {"memory"},
    ("dryrun", True): {"memory"},
    ("live", True): {"memory"},
}


@pytest.mark.parametrize("reach", ["memory", "sandbox", "live", None])
@pytest.mark.parametrize(("domain", "replay"), TABLE)
def test_28_orders_reach_what_their_domain_allows(
    runner: type[Runner], domain: str, replay: bool, reach: str | None
) -> None:
    EveryBar.provider = None
    sink = Sink({"id": "1", "status": "open"}, reach)
    runner.set_trade_execution_service(sink)
    result = runner.submit(EveryBar, domain=domain, replay=replay)
    runner.feed_queue_data(price_of(result), "q", 60, 60, {"close": 100.0})
    expected = 1 if reach in TABLE[domain, replay] else 0
    assert len(sink.orders) == expected
    assert runner.road.counts["skipped_domain"] == 1 - expected
    simulated = result.journal is not None and any(
        isinstance(event, IntentRecorded) for _, event in result.journal.read()
    )
    assert simulated is (not expected and (replay or domain in {"backtest", "dryrun"}))


def test_28_a_direct_post_inside_a_backtest_is_a_violation(runner: type[Runner], broker: Broker) -> None:
    client = service(broker)

    class Cheating(EveryBar):
        provider = Bars(1)

        def setup(self) -> None:
            super().setup()
            self.nodes[1].compute_fn = lambda _: client.post_order(order())

    with pytest.raises(DomainViolation, match="backtest cannot reach a live venue"):
        runner.submit(Cheating, domain="backtest", start=0, end=6_000)
    runner.set_default_context({"execution_domain": "backtest"})
    with pytest.raises(DomainViolation, match="backtest cannot reach a live venue"):
        client.post_order(order())
    runner.set_default_context(None)
    assert client.post_order(order()).id == "1", "with none set a direct call passes"
    assert broker.methods() == ["POST"]


def test_28_shadow_records_and_sends_nothing(runner: type[Runner]) -> None:
    EveryBar.provider = None
    runner.set_trade_execution_service(FakeBrokerageClient())
    result = runner.submit(EveryBar, domain="shadow")
    runner.feed_queue_data(price_of(result), "q", 60, 60, {"close": 100.0})
    (entry,) = runner.road.shadow.journal.intents.entries.values()
    assert (entry.order.intent.symbol, str(entry.order.intent.quantity)) == ("BTCUSDT", "0.01")
    assert entry.order.reason == "shadow: recorded, not sent"
    assert runner.road.counts == {"skipped_domain": 1, "sent": 1}


def test_29_an_unset_domain_serves_ducks_and_refuses_live_services(
    runner: type[Runner], broker: Broker
) -> None:
    sink, payload = Sink(), {"id": 2}
    runner.set_trade_execution_service(sink)
    publish(runner, payload)
    assert sink.orders == [{"id": 2}]
    assert sink.orders[0] is payload
    runner.set_trade_execution_service(service(broker))
    with pytest.raises(DomainViolation, match="TradeExecutionService reaches a live venue"):
        publish(runner, order())
    assert broker.calls == []


def test_30_equal_orders_of_one_bar_are_one(runner: type[Runner]) -> None:
    sink = Sink()
    runner.set_trade_execution_service(sink)
    publish(runner, order(timestamp=60, limit_price=1.0), order(timestamp=60, limit_price=2.0))
    assert len(sink.orders) == 2, "limits that differ in price"
    publish(runner, order(timestamp=60, limit_price=1.0), order(timestamp=60, price=2, side="buy"))
    assert len(sink.orders) == 2, "identical, whatever the spelling"
    publish(runner, order(), order())
    assert len(sink.orders) == 4, "neither timestamp nor client id"
    publish(runner, order(client_order_id="a"), order(client_order_id="a", quantity=2))
    assert len(sink.orders) == 5, "one client id is one order"
    runner.reset_trade_order_dedup()
    publish(runner, order(timestamp=60, limit_price=1.0))
    assert len(sink.orders) == 6


@pytest.mark.parametrize("answer", [OrderRejected("no"), {"id": "1", "status": "rejected"}])
def test_30_a_rejected_order_is_resubmittable_at_once(runner: type[Runner], answer: Any) -> None:
    sink = Sink(answer)
    runner.set_trade_execution_service(sink)
    for _ in range(2):
        if isinstance(answer, Exception):
            with pytest.raises(OrderRejected):
                publish(runner, order(timestamp=60))
        else:
            publish(runner, order(timestamp=60))
    assert len(sink.orders) == 2


def test_30_an_order_of_unknown_outcome_is_not_repeated(runner: type[Runner]) -> None:
    sink = Sink(TimeoutError("late"))
    runner.set_trade_execution_service(sink)
    with pytest.raises(TimeoutError):
        publish(runner, order(timestamp=60))
    publish(runner, order(timestamp=60))
    assert len(sink.orders) == 1


@pytest.mark.parametrize("payload", [{"rejected": True, "side": "BUY"}, "text", None, 7, ["BUY"]])
def test_31_what_is_no_order_is_not_sent(runner: type[Runner], payload: Any) -> None:
    sink = Sink()
    runner.set_trade_execution_service(sink)
    publish(runner, payload)
    assert sink.orders == []


def test_31_a_payload_without_side_goes_to_ducks_only(runner: type[Runner], broker: Broker) -> None:
    runner.set_trade_mode("live")
    runner.set_trade_execution_service(service(broker))
    publish(runner, {"id": 2})
    assert broker.calls == []
    assert runner.road.counts == {"no_side": 1}


def test_a_duck_in_a_set_domain_is_checked_and_recorded(
    runner: type[Runner], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    monkeypatch.setenv("QMTL_RISK__MAX_ORDER_NOTIONAL", "100")
    sink = Sink({"id": "9", "status": "filled", "average_price": 50.0})
    runner.set_trade_mode("live")
    runner.set_trade_execution_service(sink)
    publish(
        runner, order(quantity=1, type="limit", limit_price=50.0), order(quantity=3, type="limit", price=50)
    )
    assert len(sink.orders) == 1
    assert runner.road.counts == {"sent": 1, "refused:max_order_notional": 1}
    (entry,) = runner.road.desk.journal.intents.entries.values()
    assert entry.order.status is OrderStatus.FILLED
    assert runner.road.desk.position("BTC/USDT") == 1
    assert (home / ".qmtl" / "orders.db").is_file()
    sink.answer = OrderValidationError("bad")
    with pytest.raises(OrderValidationError):
        publish(runner, order(quantity=1, type="limit", limit_price=49.0))
    statuses = [e.order.status for e in runner.road.desk.journal.intents.entries.values()]
    assert statuses == [OrderStatus.FILLED, OrderStatus.REJECTED]


def test_an_orders_own_domain_is_checked_again(runner: type[Runner]) -> None:
    sink = Sink()
    runner.set_trade_mode("live")
    runner.set_trade_execution_service(sink)
    with pytest.raises(DomainViolation, match="domain backtest cannot reach a live venue"):
        publish(runner, order(execution_domain="backtest"))
    with pytest.raises(OrderValidationError, match="symbol: is missing"):
        publish(runner, {"id": 2})
    assert sink.orders == []


def test_one_failing_order_stops_no_other(runner: type[Runner]) -> None:
    class Picky(Sink):
        def post_order(self, payload: Mapping[str, Any]) -> Any:
            super().post_order(payload)
            if payload["side"] == "BUY":
                raise OrderRejected("no")

    source = StreamInput(interval=60, period=1)
    FiringTradeOrderPublisher(source, lambda _: order("BUY"), name="buy", interval=60, period=1)
    FiringTradeOrderPublisher(source, lambda _: order("SELL"), name="sell", interval=60, period=1)
    sink = Picky()
    runner.set_trade_execution_service(sink)
    with pytest.raises(OrderRejected):
        runner.feed_queue_data(source, "q", 60, 60, None)
    assert [one["side"] for one in sink.orders] == ["BUY", "SELL"]


def test_submission_can_be_switched_off_and_nobody_is_a_sink(runner: type[Runner]) -> None:
    sink = Sink()
    publish(runner, order())
    assert runner.road.counts == {"no_service": 1}
    runner.set_trade_execution_service(sink)
    runner.set_enable_trade_submission(False)
    publish(runner, order())
    assert sink.orders == []
    assert runtime.settings().connectors.execution_domain is None
