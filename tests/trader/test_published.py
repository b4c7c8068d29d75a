"""trader.md §7 item 2: the published names are there, and the published excerpts mean the same here."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmtl.core.event import OrderFilled
from qmtl.runtime.io.binance_messages import BinanceMessageMapper
from qmtl.trader.callback import Callback
from qmtl.trader.collector import AccountUpdateCollector, OrderUpdateCollector, RealTimeKlineCollector
from qmtl.trader.conditional import BBConditional, RVConditional
from qmtl.trader.decision import Decision, DecisionParams
from tests.trader.candles import closed_bars, read_candles
from tests.trader.desk import Desk

PUBLISHED = {
    "prelim": {
        "Prelim": [
            *("getInfo_account", "getData_OHLCV", "new_listenKey", "renew_listenKey", "close_listenKey"),
            *("getInfo_streams", "getInfo_streamURL", "getInfo_trade"),
        ]
    },
    "collector": {
        "Collector": ["getEventType", "getRowDictFromMessage", "getDataFrame"],
        "MarkPriceCollector": ["getRowDictFromMessage"],
        "RealTimeKlineCollector": ["getRowDictFromMessage"],
        "KlineCollector": ["getRowDictFromMessage"],
        "OrderUpdateCollector": ["getRowDictFromMessage"],
        "AccountUpdateCollector": ["getRowDictFromMessage"],
    },
    "conditional": {"BBConditional": ["update", "evaluate"], "RVConditional": ["update", "evaluate"]},
    "decision": {"Decision": ["trade", "trade_limit"]},
    "callback": {"Callback": ["callback"]},
    "rt_trader": {"RealTimeTrader": ["run"]},
}


@pytest.mark.parametrize("module", PUBLISHED)
def test_every_published_class_and_method_exists(module: str) -> None:
    room = importlib.import_module(f"qmtl.trader.{module}")
    for name, methods in PUBLISHED[module].items():
        made = getattr(room, name)
        for method in methods:
            assert callable(getattr(made, method)), f"{name}.{method}"


def test_published_signatures_take_the_published_arguments() -> None:
    bands = inspect.signature(BBConditional).parameters
    assert {name: bands[name].default for name in ("window", "inner", "outer")} == {
        "window": 20,
        "inner": 1.0,
        "outer": 2.0,
    }
    volatility = inspect.signature(RVConditional).parameters
    assert (volatility["window"].default, volatility["horizon"].default) == (10, 20)
    assert list(inspect.signature(Decision.trade).parameters)[:2] == ["self", "currentPrice"]
    assert list(inspect.signature(Decision.trade_limit).parameters)[1:4] == ["side", "price", "amount"]


class Excerpt(RealTimeKlineCollector):
    """The published method, as it stands on its page, but for its print."""

    def getRowDictFromMessage(self, message: Any) -> dict[str, Any]:
        streamKey, eventType = self.getEventType(message)
        data = message["data"]
        kline = data["k"]
        row_dict = dict(  # noqa: C408 - the page's own spelling
            stream=streamKey,
            eventType=eventType,
            eventTime=int(data["E"]),
            startTime=int(kline["t"]),
            closeTime=int(kline["T"]),
            interval=str(kline["i"]),
            open=float(kline["o"]),
            high=float(kline["h"]),
            low=float(kline["l"]),
            close=float(kline["c"]),
            volume=float(kline["v"]),
        )
        self.open, self.close = float(kline["o"]), float(kline["c"])
        return row_dict


@pytest.mark.recorded
def test_the_published_row_is_our_row(recorded_file: Callable[[str], Path]) -> None:
    name = "recordings/binance_events/market_data_json/kline_stream_open.json"
    message = {"stream": "btcusdt@kline_1m", "data": json.loads(recorded_file(name).read_text())}
    theirs, ours = Excerpt(kline1m="btcusdt@kline_1m"), RealTimeKlineCollector(kline1m="btcusdt@kline_1m")
    row = ours.getRowDictFromMessage(message)
    assert theirs.getRowDictFromMessage(message) == row
    assert list(theirs.getRowDictFromMessage(message)) == list(row)
    assert (ours.open, ours.close) == (theirs.open, theirs.close)


@pytest.mark.recorded
def test_conditionals_feed_the_decision_as_published(recorded_file: Callable[[str], Path]) -> None:
    """trade(price, **conditions) over recorded candles: signals from both faces are the same orders."""
    frame = read_candles(recorded_file).head(3_000)
    bb, rv, decision = BBConditional(), RVConditional(), Decision()
    one_by_one = [decision.trade(bar.close, **bb.update(bar), **rv.update(bar)) for bar in closed_bars(frame)]
    columns = {**BBConditional().evaluate(frame), **RVConditional().evaluate(frame)}
    at_once = [
        decision.trade(close, **{name: values[row] for name, values in columns.items()})
        for row, close in enumerate(frame["close"].to_list())
    ]
    assert one_by_one == at_once
    assert len([orders for orders in one_by_one if orders]) > 50
    assert all(isinstance(values, np.ndarray) for values in columns.values())


@pytest.mark.recorded
def test_callback_has_three_branches_and_passes_each_message_on(recorded_file: Callable[[str], Path]) -> None:
    events = "recordings/binance_events"
    names = ["market_data_json/kline_stream_closed", "user_data_json/order_update_trade"]
    names += ["user_data_json/account_update", "market_data_json/book_ticker_stream"]
    messages = [json.loads(recorded_file(f"{events}/{name}.json").read_text()) for name in names]
    passed: list[Any] = []
    collectors = {
        "kline": RealTimeKlineCollector(kline1m="btcusdt@kline_1m"),
        "order": OrderUpdateCollector(userData="key"),
        "account": AccountUpdateCollector(userData="key"),
    }
    callback = Callback(collectors=collectors, forward=passed.append)
    for message in messages:
        callback.callback(message)
    assert passed == messages[:3]
    assert callback.unknown == 1
    assert {name: len(c.getDataFrame()) for name, c in collectors.items()} == {
        "kline": 1,
        "order": 1,
        "account": len(messages[2]["a"]["B"]) + len(messages[2]["a"]["P"]),
    }
    assert all(not collector.unknown for collector in collectors.values())


@pytest.mark.recorded
def test_raw_messages_reach_the_decision_through_the_engine(recorded_file: Callable[[str], Path]) -> None:
    """message → collector → conditional → decision → order, by the published face alone."""
    callback = Callback(DecisionParams(cooldown_s=0.0, has_volatility_gate=False))
    bars = closed_bars(read_candles(recorded_file).head(400))
    desk = Desk(callback, start_ms=bars[0].open_ms)
    parse = BinanceMessageMapper().parse
    callback.forward = lambda message: desk.driver.run(parse(json.dumps(message).encode()))  # type: ignore[arg-type]
    callback.collectors = {"kline": RealTimeKlineCollector(kline1m="btcusdt@kline_1m")}
    for bar in bars:
        kline = {"t": bar.open_ms, "T": bar.open_ms + 59_999, "s": "BTCUSDT", "i": "1m", "x": True}
        kline |= {"o": str(bar.open), "h": str(bar.high), "l": str(bar.low), "c": str(bar.close)}
        data = {"e": "kline", "E": bar.ts_ms, "s": "BTCUSDT", "k": {**kline, "v": str(bar.volume)}}
        callback.callback({"stream": "btcusdt@kline_1m", "data": data})
    assert len(desk.decisions) == len(bars)
    assert len([event for event in desk.journal.events if isinstance(event, OrderFilled)]) > 10
    assert len(callback.collectors["kline"].getDataFrame()) == 400
