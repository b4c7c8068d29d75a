"""Views, grids, gaps, and the publisher's payloads."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.order import OrderValidationError
from qmtl.runtime.sdk.node_engine import NodeEngine
from qmtl.runtime.sdk.nodes.base import Node, View, parse_interval_s
from qmtl.runtime.sdk.nodes.processing import ProcessingNode
from qmtl.runtime.sdk.nodes.publishing import TradeOrderPublisherNode
from qmtl.runtime.sdk.nodes.sources import StreamInput
from qmtl.runtime.sdk.runner import Runner
from qmtl.runtime.sdk.strategy import Strategy


def feed(engine: NodeEngine, node: Node, ts: int, payload: Any, queue: str = "q", **kw: Any) -> Any:
    plan = engine.admit(node, queue, node.grid_s, (ts, payload), **kw)
    return None if plan is None else plan.walk((ts, payload))


@pytest.mark.parametrize(
    ("given", "seconds"), [(60, 60), ("60s", 60), ("1m", 60), ("4h", 14_400), ("1d", 86_400), ("1w", 604_800)]
)
def test_intervals(given: object, seconds: int) -> None:
    assert parse_interval_s(given) == seconds


@pytest.mark.parametrize("given", [0, -60, True, 1.5, "", "m", "0m", "1x", "1M", None, "60"])
def test_what_is_no_interval_is_named(given: object) -> None:
    with pytest.raises(ValueError, match="interval: expected seconds"):
        parse_interval_s(given)


def test_a_node_computes_once_a_whole_period_came() -> None:
    seen: list[list[tuple[int, Any]]] = []
    source = StreamInput(interval="60s", period=3)
    node = ProcessingNode(
        source, lambda view: seen.append(view[source][60]), name="n", interval="1m", period=3
    )
    engine = NodeEngine()
    for k in range(200):
        feed(engine, source, 60 * (k + 1), k)
    assert len(seen) == 198
    assert seen[0] == [(60, 0), (120, 1), (180, 2)]
    assert seen[-1] == [(11_880, 197), (11_940, 198), (12_000, 199)]
    assert node.view["stream"]["1m"] == seen[-1]


def test_views_name_what_they_do_not_hold() -> None:
    source = StreamInput(["price"], interval=60, period=1)
    node = ProcessingNode(source, lambda view: None, name="n", interval=60, period=1)
    with pytest.raises(KeyError, match="no node 'other' is read here; read: stream:price"):
        node.view["other"]
    with pytest.raises(KeyError, match="stream:price has interval 60, not '5m'"):
        node.view[source]["5m"]


def test_results_travel_in_order_and_none_travels_nowhere() -> None:
    source = StreamInput(interval=60, period=1)

    def last(node: Node) -> Any:
        return lambda view: view[node][60][-1][1]

    double = ProcessingNode(source, lambda view: last(source)(view) * 2, name="double", interval=60, period=1)
    odd = ProcessingNode(
        source,
        lambda view: last(source)(view) if last(source)(view) % 2 else None,
        name="odd",
        interval=60,
        period=1,
    )
    sums: list[tuple[Any, Any]] = []

    def add(view: View) -> None:
        sums.append((last(double)(view), last(odd)(view)))

    ProcessingNode({"a": odd, "b": double}, add, name="sum", interval=60, period=1)
    engine = NodeEngine()
    for k in range(1, 5):
        feed(engine, source, 60 * k, k)
    # At 2 and 4 only `double` has news; both of a row count as one.
    assert sums == [(2, 1), (4, 1), (6, 3), (8, 3)]


def test_old_rows_are_dropped_and_gaps_noticed() -> None:
    seen: list[int] = []
    source = StreamInput(interval=60, period=1)
    ProcessingNode(source, lambda view: seen.append(view[source][60][-1][0]), interval=60, period=1)
    engine = NodeEngine()
    for ts in (60, 120, 120, 60, 300, 360):
        feed(engine, source, ts, None)
    assert seen == [60, 120, 360], "the row after a gap is kept and not computed on"
    with pytest.raises(RuntimeError, match=r"gap in q: nothing in \[420, 600\)"):
        feed(engine, source, 600, None, on_missing="fail")
    with pytest.raises(ValueError, match='on_missing: expected "skip" or "fail"'):
        feed(engine, source, 600, None, on_missing="drop")


def test_a_processing_node_can_be_fed_by_hand() -> None:
    source = StreamInput(interval="60s", period=2)
    calls: list[list[tuple[int, Any]]] = []

    def compute(view: View) -> int:
        calls.append(view["q1"][60])
        return len(calls)

    node = ProcessingNode(input=source, compute_fn=compute, name="n", interval="60s", period=2)
    assert Runner.feed_queue_data(node, "q1", 60, 60, {"v": 1}) is None
    assert Runner.feed_queue_data(node, "q1", "1m", 120, {"v": 2}) == 1
    assert calls == [[(60, {"v": 1}), (120, {"v": 2})]]
    with pytest.raises(ValueError, match="n: interval is 60 s, fed with 300 s"):
        Runner.feed_queue_data(node, "q1", "5m", 180, {"v": 3})
    with pytest.raises(ValueError, match="timestamp: expected epoch seconds"):
        Runner.feed_queue_data(node, "q1", 60, 180.5, {"v": 3})  # type: ignore[arg-type]
    two = ProcessingNode([source, node], lambda view: None, name="two", interval=60, period=1)
    with pytest.raises(ValueError, match="two: reads no queue 'q9'; it reads stream, n"):
        Runner.feed_queue_data(two, "q9", 60, 60, None)
    Runner.shutdown()


def test_strategies_flatten_and_name_what_is_missing() -> None:
    strategy = Strategy()
    source = StreamInput(interval=60, period=1)
    node = ProcessingNode(source, lambda view: None, name="n", interval=60, period=1)
    strategy.add_nodes([source, (node, [source])])
    assert strategy.nodes == [source, node]
    for field, arguments in (("interval", {"period": 1}), ("period", {"interval": 60})):
        with pytest.raises(ValueError, match=f"stream:x: {field} is missing"):
            strategy.add_nodes(StreamInput("x", **arguments))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected nodes, got 7"):
        strategy.add_nodes([7])
    with pytest.raises(ValueError, match="n: a processing node needs at least one upstream node"):
        ProcessingNode([], name="n")
    with pytest.raises(ValueError, match="period: expected a whole number"):
        StreamInput(interval=60, period=0)


def published(signal: Any) -> Any:
    source = StreamInput(interval=60, period=1)
    node = TradeOrderPublisherNode(source)
    _, orders = feed(NodeEngine(), source, 60, signal)
    if not orders:
        return None
    ((publisher, payload),) = orders
    assert publisher is node
    return payload


def test_46_a_publisher_needs_a_size() -> None:
    with pytest.raises(OrderValidationError, match="size: is missing from the signal of stream"):
        published({"action": "BUY"})
    assert published({"action": "HOLD"}) is None
    assert published(None) is None
    assert published("BUY") is None
    assert published({"action": "SELL", "size": 2}) == {"side": "SELL", "quantity": 2, "timestamp": 60}


def test_46_a_publisher_forwards_order_fields_and_adds_nothing() -> None:
    fields = {
        "symbol": "BTC/USDT",
        "type": "limit",
        "limit_price": 1.0,
        "stop_price": 2.0,
        "stop_loss": 3.0,
        "take_profit": 4.0,
        "time_in_force": "IOC",
        "reduce_only": False,
        "position_side": "LONG",
        "leverage": 5,
        "client_order_id": "a",
    }
    head = {"side": "BUY", "quantity": 1, "timestamp": 60}
    assert published({"action": "buy", "size": 1, "note": "x", **fields}) == head | fields
    aliases = {"price": 1.0, "tif": "GTC", "newClientOrderId": "b"}
    renamed = {"limit_price": 1.0, "time_in_force": "GTC", "client_order_id": "b"}
    assert published({"action": "BUY", "size": 1, **aliases}) == head | renamed
    assert published({"action": "BUY", "size": 1, "limit_price": 9.0, "price": 1.0}) == head | {
        "limit_price": 9.0
    }


def test_streams_bind_their_provider_and_read_frames() -> None:
    pandas = pytest.importorskip("pandas")
    bound: list[StreamInput] = []

    class Provider:
        def bind_stream(self, stream: StreamInput) -> None:
            bound.append(stream)

        def fetch(self, start: int, end: int, **asked: Any) -> Any:
            return pandas.DataFrame({"ts": [120, 60], "close": [2.0, 1.0]})

    stream = StreamInput(
        interval="1m", period=2, history_provider=Provider(), data_key="ohlcv:x:BTC/USDT%3AUSDT:1m"
    )
    assert bound == [stream]
    assert stream.symbol == "BTCUSDT"
    rows = asyncio.run(stream.fetch_rows(60, 180))
    assert [(ts, row["close"]) for ts, row in rows] == [(60, 1.0), (120, 2.0)]
    reader = ProcessingNode(stream, lambda view: None, interval=60, period=2)
    assert asyncio.run(stream.load_history(60, 180)) == 2
    assert [ts for ts, _ in reader.view[stream][60]] == [60, 120]
    strict = StreamInput(interval="1m", period=2, history_provider=Provider(), strict=True)
    with pytest.raises(RuntimeError, match="history gap in strict mode"):
        asyncio.run(strict.load_history(60, 240))


@given(
    st.integers(1, 9),
    st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=3, unique=True), min_size=1, max_size=6),
    st.integers(1, 25),
)
def test_any_graph_computes_each_node_once_after_its_inputs(
    period: int, shape: list[list[int]], rows: int
) -> None:
    source = StreamInput(interval=60, period=1)
    nodes: list[Node] = [source]
    calls: list[tuple[int, int]] = []

    def compute(place: int) -> Any:
        def total(view: View) -> int:
            last = [view[one][60][-1] for one in nodes[place].inputs]
            assert len({ts for ts, _ in last}) == 1, "all inputs are of this row"
            assert all(len(view[one][60]) == period for one in nodes[place].inputs)
            calls.append((last[0][0], place))
            return sum(value for _, value in last)

        return total

    for place, reads in enumerate(shape, 1):
        inputs = list(dict.fromkeys(nodes[one % len(nodes)] for one in reads))
        nodes.append(ProcessingNode(inputs, compute(place), name=f"n{place}", interval=60, period=period))
    engine = NodeEngine()
    for k in range(1, rows + 1):
        feed(engine, source, 60 * k, 1)
    depth: dict[Node, int] = {source: 1}
    for node in nodes[1:]:
        depth[node] = max(depth[one] for one in node.inputs) + period - 1
    expected = {(60 * k, p) for p, node in enumerate(nodes) if p for k in range(depth[node], rows + 1)}
    assert set(calls) == expected
    assert len(calls) == len(expected)
