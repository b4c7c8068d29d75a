"""Submitting, feeding and ending runs; settings that hold for all of them; the gate."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qmtl.core.event import DecisionMade, IntentRecorded, OrderFilled
from qmtl.core.reason import Reason
from qmtl.engine.journal import JournalError
from qmtl.runtime.sdk.activation import ActivationManager
from qmtl.runtime.sdk.brokerage.ccxt_client import CcxtBrokerageClient
from qmtl.runtime.sdk.brokerage.fake_client import FakeBrokerageClient
from qmtl.runtime.sdk.brokerage.result import DomainViolation
from qmtl.runtime.sdk.brokerage.trade_execution_service import TradeExecutionService
from qmtl.runtime.sdk.nodes.base import View
from qmtl.runtime.sdk.nodes.processing import ProcessingNode
from qmtl.runtime.sdk.nodes.publishing import TradeOrderPublisherNode
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.runner import Runner
from qmtl.runtime.sdk.strategy import Strategy
from tests.runtime.sdk.runner_rig import (
    KEY,
    MINUTE,
    Bars,
    EveryBar,
    FiringTradeOrderPublisher,
    Sink,
    order,
    price_of,
    publish,
    serve_broker,
)


def test_history_is_simulated_bar_by_bar_on_the_engine(runner: type[Runner]) -> None:
    EveryBar.provider = Bars(4)
    result = runner.submit(EveryBar, domain="backtest", start=600, end=600 + 4 * MINUTE)
    assert result.status == "active"
    assert result.journal is not None
    events = [event for _, event in result.journal.read()]
    fills = [event for event in events if isinstance(event, OrderFilled)]
    # An order given at a close meets the market at the next bar's open; the last one waits for ever.
    assert [float(fill.price) for fill in fills] == [101.0, 102.0, 103.0]
    reasons = [event.reason for event in events if isinstance(event, DecisionMade)]
    assert reasons == [Reason.ENTERED] * 4
    assert [e.intent.bar_ms for e in events if isinstance(e, IntentRecorded)] == [
        600_000,
        660_000,
        720_000,
        780_000,
    ]
    assert EveryBar.provider.asked == [{"start": 600, "end": 840, "node_id": KEY, "interval": 60}]


def test_streams_are_merged_by_the_time_they_close(runner: type[Runner]) -> None:
    seen: list[tuple[str, int]] = []

    class Two(Strategy):
        def setup(self) -> None:
            five = Bars(0)
            five.rows = [{"ts": 600, "close": 5.0}, {"ts": 900, "close": 6.0}]
            fast = StreamInput(interval="1m", period=1, history_provider=Bars(6), data_key=KEY)
            slow = StreamInput(interval="5m", period=1, history_provider=five, name="slow")

            def note(view: View) -> None:
                for name, node in (("fast", fast), ("slow", slow)):
                    rows = view[node][node.grid_s]
                    if rows and (name, rows[-1][0]) not in seen:
                        seen.append((name, rows[-1][0]))

            self.add_nodes([fast, slow, ProcessingNode([fast, slow], note, interval="1m", period=1)])

    runner.submit(Two, domain="backtest", start=600, end=1200)
    # [600, 900) closes with the minute [840, 900), after it because it was added later.
    assert seen == [("fast", 840), ("slow", 600), ("fast", 900), ("slow", 900)]


def test_what_a_strategy_raises_reaches_the_caller(runner: type[Runner]) -> None:
    class Broken(EveryBar):
        provider = Bars(1)

        def setup(self) -> None:
            super().setup()
            self.nodes[1].compute_fn = lambda view: 1 / 0

    for domain in ("backtest", "dryrun"):
        with pytest.raises(ZeroDivisionError):
            runner.submit(Broken, domain=domain, start=600, end=660)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"start": 600}, "end: is missing"),
        ({"start": 600, "end": 60}, "0 <= start <= end"),
        ({"start": 0, "end": 60}, "ohlcv:binanceusdm.*no history_provider"),
    ],
)
def test_submit_names_what_is_wrong(runner: type[Runner], arguments: dict[str, int], words: str) -> None:
    EveryBar.provider = None
    with pytest.raises(ValueError, match=words):
        runner.submit(EveryBar, domain="backtest", **arguments)  # type: ignore[arg-type]
    with pytest.raises(DomainViolation, match="execution_domain: expected one of"):
        runner.submit(EveryBar, domain="moon")


def test_modes_and_contexts(runner: type[Runner]) -> None:
    with pytest.raises(ValueError, match='expected "simulate" or "live", got \'paper\''):
        runner.set_trade_mode("paper")
    with pytest.raises(
        ValueError, match="unknown key 'domain'; known: execution_domain, world_id, as_of, replay"
    ):
        runner.set_default_context({"domain": "live"})
    EveryBar.provider = None
    runner.set_trade_mode("simulate")
    assert runner.submit(EveryBar).domain == "dryrun"
    runner.set_default_context({"execution_domain": "paper", "replay": True})
    assert runner.submit(EveryBar).domain == "dryrun"
    runner.set_default_context(execution_domain="shadow")
    assert runner.submit(EveryBar).domain == "shadow"
    assert runner.submit(EveryBar, domain="live").domain == "live"


def test_a_configured_domain_is_the_last_word(runner: type[Runner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QMTL_CONNECTORS__EXECUTION_DOMAIN", "shadow")
    EveryBar.provider = None
    assert runner.submit(EveryBar).domain == "shadow"


class Live(Bars):
    """History up to now and a live feed of three rows, one of them still forming."""

    def __init__(self) -> None:
        super().__init__(0)
        self.windows: list[tuple[int, int]] = []

    async def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> list[dict[str, Any]]:
        self.windows.append((start, end))
        self.end = end
        return [{"ts": ts, "close": 1.0} for ts in range(start, end, interval)]

    async def subscribe(
        self, node_id: str, interval: int
    ) -> AsyncIterator[tuple[int, list[Mapping[str, Any]]]]:
        rows = [{"ts": self.end + k * interval, "close": 2.0, "closed": k != 1} for k in (0, 1, 1)]
        rows[2]["closed"] = True
        for row in rows:
            yield int(row["ts"]), [row]


def test_a_live_run_is_warmed_and_goes_on_from_closed_rows(runner: type[Runner]) -> None:
    provider = Live()
    seen: list[list[float]] = []
    done = threading.Event()

    class Following(Strategy):
        def setup(self) -> None:
            price = StreamInput(interval="1m", period=3, history_provider=provider)

            def note(view: View) -> dict[str, Any]:
                seen.append([row["close"] for _, row in view[price]["1m"]])
                if len(seen) == 3:
                    done.set()
                return order()

            self.add_nodes(
                price, FiringTradeOrderPublisher(price, note, name="fire", interval="1m", period=3)
            )

    sink = Sink()
    runner.set_trade_execution_service(sink)
    runner.submit(Following, domain="live")
    assert done.wait(60)
    runner.shutdown()
    assert seen == [[1.0, 1.0, 1.0], [1.0, 1.0, 2.0], [1.0, 2.0, 2.0]], "the forming row was left out"
    ((start, end),) = provider.windows
    assert end - start == 3 * MINUTE
    assert end % MINUTE == 0
    assert len(sink.orders) == 2, "warm-up gives no orders"


async def test_a_hung_broker_delays_no_other_task(runner: type[Runner]) -> None:
    released = threading.Event()

    class Hung(Sink):
        def post_order(self, payload: Mapping[str, Any]) -> Any:
            released.wait(60)
            return super().post_order(payload)

    sink = Hung()
    runner.set_trade_execution_service(sink)
    publish(runner, order(timestamp=1), order(timestamp=2))
    await asyncio.sleep(0)
    assert sink.orders == [], "this task was held until the broker answered"
    released.set()
    await runner.shutdown_async()
    assert [one["timestamp"] for one in sink.orders] == [1, 2]


async def test_an_error_off_the_loop_reaches_the_next_caller(runner: type[Runner]) -> None:
    runner.set_trade_execution_service(Sink(TimeoutError("late")))
    publish(runner, order())
    with pytest.raises(TimeoutError, match="late"):
        await runner.shutdown_async()


async def test_submit_async_keeps_the_loop_free(runner: type[Runner]) -> None:
    loop = asyncio.get_running_loop()
    answered: list[bool] = []

    def ask_the_loop(_view: object) -> None:
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        answered.append(turned.wait(30))

    class Slow(EveryBar):
        provider = Bars(5)

        def setup(self) -> None:
            super().setup()
            self.nodes[1].compute_fn = ask_the_loop

    result = await runner.submit_async(Slow, domain="backtest", start=600, end=900)
    assert result.status == "active"
    assert len(answered) >= 5
    assert all(answered)


class Gate:
    """An activation manager somebody else wrote."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def allow_order(self, payload: Mapping[str, Any], position: Any = None) -> Any:
        self.asked.append((payload["side"], position))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class SideGate:
    """A manager that offers only `allow_side`."""

    def allow_side(self, side: str) -> bool:
        return side == "BUY"


@pytest.mark.parametrize(("answer", "sent"), [(True, 1), (False, 0), ("yes", 0), (RuntimeError("down"), 0)])
def test_32_the_gate_is_asked_and_fails_closed(runner: type[Runner], answer: Any, sent: int) -> None:
    sink, gate = Sink(), Gate(answer)
    runner.set_trade_execution_service(sink)
    runner.set_activation_manager(gate)
    publish(runner, order())
    assert len(sink.orders) == sent
    assert runner.road.counts["denied"] == 1 - sent
    publish(runner, {"id": 2})
    assert len(sink.orders) == sent, "an order without side is denied"


def test_32_the_gate_hears_the_position(runner: type[Runner]) -> None:
    gate = Gate(True)
    runner.set_trade_mode("simulate")
    runner.set_trade_execution_service(FakeBrokerageClient())
    runner.set_activation_manager(gate)
    publish(runner, order(), order("SELL", quantity=0.03))
    publish(runner, order())
    assert gate.asked == [("BUY", 0), ("SELL", Decimal("0.01")), ("BUY", Decimal("-0.02"))]


def test_32_a_side_gate_and_a_manager_that_heard_nothing(runner: type[Runner]) -> None:
    sink = Sink()
    runner.set_trade_execution_service(sink)
    runner.set_activation_manager(SideGate())
    publish(runner, order(), order("SELL"))
    assert [one["side"] for one in sink.orders] == ["BUY"]
    runner.set_activation_manager(ActivationManager())
    publish(runner, order())
    assert len(sink.orders) == 1
    EveryBar.provider = None
    assert runner.submit(EveryBar, world="w").status == "pending"


_OTHER = """
import sys
from qmtl.runtime.sdk import TradeExecutionService
svc = TradeExecutionService(sys.argv[1])
svc.post_order({"symbol": "BTC/USDT", "side": "BUY", "quantity": 1})
print("ready", flush=True)
sys.stdin.read()
"""


def test_33_any_sale_on_a_spot_transport_closes(runner: type[Runner]) -> None:
    """A side that is not active lets closing orders pass; without a position a contract's sale opens."""
    manager = ActivationManager()
    for side in ("long", "short"):
        manager.state, _ = manager.state.update(
            {"side": side, "active": side == "long", "sequence": 1, "weight": 1.0}, is_http=True
        )
    manager._fresh_ms = manager._clock.real_ms()
    runner.set_activation_manager(manager)
    for is_spot in (False, True):
        sink = Sink()
        sink.is_spot = is_spot  # type: ignore[attr-defined]
        runner.set_trade_execution_service(sink)
        publish(runner, order("SELL"))
        assert len(sink.orders) == is_spot
    client = CcxtBrokerageClient("binance", options={"defaultType": "spot"})
    assert (client.is_spot, FakeBrokerageClient().is_spot) == (True, False)


def test_a_live_runner_owns_its_account(runner: type[Runner], home: Path) -> None:
    EveryBar.provider = None
    with serve_broker() as broker:
        other = subprocess.Popen(
            [sys.executable, "-c", _OTHER, broker.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            runner.set_trade_execution_service(TradeExecutionService(broker.url))
            with pytest.raises(JournalError, match=f"pid {other.pid}"):
                runner.submit(EveryBar, domain="live")
            assert broker.methods() == ["POST"]
        finally:
            other.communicate("")
        assert runner.submit(EveryBar, domain="live").status == "active"


def test_dry_run_trades_on_paper_row_by_row(runner: type[Runner]) -> None:
    EveryBar.provider = None
    result = runner.submit(EveryBar, domain="dryrun")
    for k in range(3):
        runner.feed_queue_data(price_of(result), "q", 60, 60 * (k + 1), {"close": 100.0 + k})
    assert result.journal is not None
    fills = [event for _, event in result.journal.read() if isinstance(event, OrderFilled)]
    assert [float(fill.price) for fill in fills] == [101.0, 102.0]


def test_a_simulated_run_asks_the_gate_about_its_own_position(runner: type[Runner]) -> None:
    gate = Gate(True)
    runner.set_activation_manager(gate)
    EveryBar.provider = Bars(3)
    runner.submit(EveryBar, domain="backtest", start=600, end=780)
    assert [held for _, held in gate.asked] == [0, Decimal("0.01"), Decimal("0.02")]


def test_the_publisher_is_found_by_its_class_name(runner: type[Runner]) -> None:
    class Other(TradeOrderPublisherNode):
        pass

    Other.__name__ = "Renamed"
    source = StreamInput(interval=60, period=1)
    Other(source)
    sink = Sink()
    runner.set_trade_execution_service(sink)
    runner.feed_queue_data(source, "q", 60, 60, {"action": "BUY", "size": 1})
    assert sink.orders == []
    TradeOrderPublisherNode(source)
    runner.feed_queue_data(source, "q", 60, 120, {"action": "BUY", "size": 1})
    assert sink.orders == [{"side": "BUY", "quantity": 1, "timestamp": 120}]
