"""Collectors on recorded messages of the published trader and of the venue's other events."""

import ast
import builtins
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import structlog

from qmtl.trader.collector import (
    AccountUpdateCollector,
    Collector,
    KlineCollector,
    MarkPriceCollector,
    OrderUpdateCollector,
    RealTimeKlineCollector,
)

Find = Callable[[str], Path]
KLINE = "btcusdt@kline_1m"
MINUTE_MS = 60_000


def logged(find: Find, name: str) -> list[tuple[str, dict[str, Any]]]:
    """(clock, raw message) of one of the published trader's logs."""
    pairs = []
    for line in find(f"recordings/trader_logs/{name}").read_text().splitlines():
        head, found, body = line.partition("message:")
        if found:
            pairs.append((head.removeprefix("time:").strip(), ast.literal_eval(body)))
    return pairs


def example(find: Find, name: str) -> Any:
    return json.loads(find(f"recordings/binance_events/{name}.json").read_text())


def kline(start: int, close: float, *, wrapped: bool = True) -> dict[str, Any]:
    candle: dict[str, Any] = dict.fromkeys("ohlv", "7") | {"c": str(close), "x": False, "i": "1m"}
    candle |= {"t": start, "T": start + MINUTE_MS - 1, "s": "BTCUSDT"}
    data = {"e": "kline", "E": start + 15_000, "s": "BTCUSDT", "k": candle}
    return {"stream": KLINE, "data": data} if wrapped else data


@pytest.mark.recorded
def test_every_logged_order_update_becomes_its_row(recorded_file: Find) -> None:
    for _, message in logged(recorded_file, "orderTradeUpdate_230224.txt"):
        collector = OrderUpdateCollector(userData=message["stream"])
        assert collector.getEventType(message) == ("userData", "ORDER_TRADE_UPDATE")
        row, order = collector.getRowDictFromMessage(message), message["data"]["o"]
        assert (row["stream"], row["eventTime"]) == ("userData", message["data"]["E"])
        assert (row["symbol"], row["side"], row["orderType"]) == (order["s"], order["S"], order["o"])
        assert Decimal(str(row["originQuantity"])) == Decimal(order["q"])
        assert Decimal(str(row["cumFilledQuantity"])) == Decimal(order["z"])
        assert Decimal(str(row["lastFilledPrice"])) == Decimal(order["L"])
        assert (row["orderId"], row["clientOrderId"]) == (order["i"], order["c"])
        assert (row["reduceOnly"], row["positionSide"]) == (order["R"], "BOTH")
        assert (row["commission"] is None) == ("n" not in order)
        assert row["commissionAsset"] == order.get("N")


@pytest.mark.recorded
def test_folded_sessions_give_the_wallet_and_position_each_line_states(recorded_file: Find) -> None:
    """Seeded with each session's account line; what was closed by hand between sessions is not in the log."""
    starts = []
    for line in recorded_file("recordings/trader_logs/accountInfo.txt").read_text().splitlines():
        if line.startswith("time:"):
            clock, balance = line.split(", ")[1].split()[0], line.split("walletBalance:")[1].split(",")[0]
            starts.append((clock, Decimal(balance)))
    orders = logged(recorded_file, "orderTradeUpdate_230224.txt")
    updates = logged(recorded_file, "AccountUpdate_230224.txt")
    checked = 0
    for number, (start, seed) in enumerate(starts):
        end = starts[number + 1][0] if number + 1 < len(starts) else "24"
        fills = [m for clock, m in orders if start <= clock < end and m["data"]["o"]["x"] == "TRADE"]
        states = [m for clock, m in updates if start <= clock < end]
        rows = [OrderUpdateCollector(userData=m["stream"]).getRowDictFromMessage(m) for m in fills]
        rows.sort(key=lambda row: (row["tradeTime"], row["tradeId"]))
        account = AccountUpdateCollector(**{f"userData{n}": m["stream"] for n, m in enumerate(states)})
        position, wallet = Decimal(0), seed
        for row, message in zip(rows, states, strict=True):
            amount = Decimal(str(row["lastFilledQuantity"]))
            position += amount if row["side"] == "BUY" else -amount
            wallet += Decimal(str(row["realizedProfit"])) - Decimal(str(row["commission"]))
            account.collect(message)
            assert Decimal(str(account.assets["USDT"]["walletBalance"])) == wallet
            assert Decimal(str(account.positions["BTCUSDT", "BOTH"]["positionAmt"])) == position
            checked += 1
    assert checked == len(updates) == 22


@pytest.mark.recorded
@pytest.mark.parametrize(
    "name",
    ["adl", "calculated", "calculated_pending", "delivery", "insurance", "new", "trade", "trade_partial"],
)
def test_rare_order_updates_are_rows_too(recorded_file: Find, name: str) -> None:
    message = example(recorded_file, f"user_data_json/order_update_{name}")
    collector = OrderUpdateCollector(userData="key")
    row = collector.getRowDictFromMessage(message)
    assert row["orderStatus"] == message["o"]["X"]
    assert row["stream"] == "userData"
    assert list(collector.getDataFrame(message)["clientOrderId"]) == [message["o"]["c"]]


@pytest.mark.recorded
@pytest.mark.parametrize("name", ["account_update", "account_update_bnfcr"])
def test_all_assets_and_position_sides_of_an_account_update_are_kept(recorded_file: Find, name: str) -> None:
    message = example(recorded_file, f"user_data_json/{name}")
    collector = AccountUpdateCollector(userData="key")
    frame = collector.getDataFrame(message)
    stated = message["a"]
    assert set(collector.assets) == {balance["a"] for balance in stated["B"]}
    assert set(collector.positions) == {(p["s"], p["ps"]) for p in stated.get("P", [])}
    assert len(frame) == len(stated["B"]) + len(stated.get("P", []))
    assert set(frame["reason"]) == {stated["m"]}


@pytest.mark.recorded
def test_market_messages_become_rows(recorded_file: Find) -> None:
    candle = example(recorded_file, "market_data_json/kline_stream_closed")
    collector = RealTimeKlineCollector(kline1m=KLINE)
    row = collector.getRowDictFromMessage(candle)
    assert list(row) == [
        *("stream", "eventType", "eventTime", "startTime", "closeTime", "interval"),
        *("open", "high", "low", "close", "volume"),
    ]
    assert row["closeTime"] == candle["k"]["T"] == collector.closeTime
    assert (row["stream"], row["close"], collector.close) == ("kline1m", 0.002, 0.002)
    mark = example(recorded_file, "market_data_json/mark_price_stream")
    row = MarkPriceCollector(markPrice1s="btcusdt@markPrice@1s").getRowDictFromMessage(mark)
    assert (row["markPrice"], row["fundingRate"], row["nextFundingTime"]) == (
        11_794.15,
        0.00038167,
        1562306400000,
    )


def test_the_base_is_abstract_and_streams_are_told_apart() -> None:
    with pytest.raises(TypeError, match="getRowDictFromMessage"):
        Collector()  # type: ignore[abstract]
    collector = RealTimeKlineCollector(kline1m=KLINE, kline5m="btcusdt@kline_5m", userData="secret")
    assert collector.getEventType(kline(0, 1.0)) == ("kline1m", "kline")
    assert collector.getEventType(kline(0, 1.0, wrapped=False)) == ("kline1m", "kline")


def test_an_unknown_stream_is_a_counted_warning_and_no_row() -> None:
    collector = RealTimeKlineCollector(kline5m="btcusdt@kline_5m")
    with structlog.testing.capture_logs() as lines:
        for _ in range(12):
            assert collector.getEventType(kline(0, 1.0)) == (None, None)
        assert collector.getEventType({"result": None, "id": 1}) == (None, None)
        collector.collect(kline(0, 1.0))
    assert collector.unknown[f"{KLINE}:kline"] == 13
    assert [line["count"] for line in lines if line["message"] == f"{KLINE}:kline"] == [1, 10]
    assert all(line["log_level"] == "warning" and line["action"] for line in lines)
    assert collector.getDataFrame().empty


def test_the_ring_is_bounded_and_the_frame_built_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    collector = RealTimeKlineCollector(kline1m=KLINE)
    built: list[int] = []

    def build(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        built.append(len(rows))
        return rows

    monkeypatch.setattr(pd, "DataFrame", build)
    for number in range(700):
        collector.collect(kline(0, float(number)))
    assert built == []
    assert collector.getDataFrame() is collector.getDataFrame()
    assert built == [500]
    assert collector.getDataFrame()[-1]["close"] == 699.0


def test_a_candle_is_replaced_until_the_next_begins() -> None:
    start = 1_700_000_040_000
    last = [{"startTime": start, "closeTime": start + MINUTE_MS - 1, "close": 9.0}]
    collector = KlineCollector(pd.DataFrame(last), kline1m=KLINE)
    for close in (1.0, 2.0, 3.0):
        collector.collect(kline(start + MINUTE_MS, close))
    assert list(collector.getDataFrame()["close"]) == [9.0, 3.0]
    frame = collector.getDataFrame(kline(start + 2 * MINUTE_MS, 4.0))
    assert list(frame["close"]) == [9.0, 3.0, 4.0]
    assert list(frame["startTime"]) == [start, start + MINUTE_MS, start + 2 * MINUTE_MS]
    assert collector.gaps == []
    collector.collect(kline(start - MINUTE_MS, 8.0))
    assert list(collector.getDataFrame()["close"]) == [9.0, 3.0, 4.0]


def test_a_gap_is_reported_and_closed_by_a_refill() -> None:
    start, told = 1_700_000_040_000, []
    collector = KlineCollector(onGap=lambda begin, end: told.append((begin, end)), kline1m=KLINE)
    collector.collect(kline(start, 1.0))
    collector.collect(kline(start + 5 * MINUTE_MS, 6.0))
    hole = (start + MINUTE_MS, start + 5 * MINUTE_MS)
    assert told == collector.gaps == [hole]
    rows = [
        {"startTime": at, "closeTime": at + MINUTE_MS - 1, "close": float((at - start) // MINUTE_MS + 1)}
        for at in range(hole[0], hole[1], MINUTE_MS)
    ]
    collector.refill(rows[1:3])
    assert collector.gaps == [(hole[0], hole[0] + MINUTE_MS), (hole[1] - MINUTE_MS, hole[1])]
    collector.refill(rows)
    assert collector.gaps == []
    assert list(collector.getDataFrame()["close"]) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_candles_are_bounded_like_any_ring() -> None:
    collector = KlineCollector(rows=10, kline1m=KLINE)
    for number in range(25):
        collector.collect(kline(number * MINUTE_MS, float(number)))
    assert list(collector.getDataFrame()["close"]) == [float(n) for n in range(15, 25)]


def test_without_pandas_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "pandas":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    collector = RealTimeKlineCollector(kline1m=KLINE)
    collector.collect(kline(0, 1.0))
    with pytest.raises(
        ModuleNotFoundError, match=r"^pandas is not installed: frames need the extra trader.*$"
    ):
        collector.getDataFrame()
