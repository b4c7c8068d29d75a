"""Recorded REST answers as reports, bars and instruments."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from qmtl.core.bar import find_fault
from qmtl.core.event import FundingPaid, Transferred
from qmtl.core.order import OrderStatus, OrderType, Side
from qmtl.runtime.io.binance_payloads import (
    PayloadError,
    parse_account,
    parse_algo,
    parse_algos,
    parse_balances,
    parse_error,
    parse_exchange_info,
    parse_incomes,
    parse_klines,
    parse_order,
    parse_positions,
    parse_time,
)

Find = Callable[[str], Path]


@pytest.fixture
def read(recorded_file: Find) -> Callable[[str], bytes]:
    return lambda name: recorded_file(f"recordings/binance_events/http_json/{name}.json").read_bytes()


@pytest.mark.recorded
def test_recorded_account_answers(read: Callable[[str], bytes]) -> None:
    assert parse_account(read("account_info_v2")).totalWalletBalance == Decimal("23.72469206")
    (balance,) = parse_balances(read("balance"))
    assert (balance.asset, balance.wallet) == ("USDT", Decimal("122.12345678"))
    (position,) = parse_positions(read("position_risk"))
    assert (position.symbol, position.quantity, position.entry_price) == (
        "BTCUSDT",
        Decimal("0.001"),
        Decimal(50000),
    )


@pytest.mark.recorded
def test_recorded_order_answers(read: Callable[[str], bytes]) -> None:
    report = parse_order(read("order_response")).report
    assert (report.client_order_id, report.venue_order_id) == ("testOrder123", "12345678")
    assert (report.status, report.type, report.limit_price) == (
        OrderStatus.ACCEPTED,
        OrderType.LIMIT,
        Decimal(50000),
    )
    (algo,) = parse_algos(read("open_algo_orders"))
    assert (algo.report.client_order_id, algo.child_id) == ("test-algo-order-1", "")
    assert (algo.report.stop_price, algo.report.side) == (Decimal(45000), Side.BUY)


@pytest.mark.recorded
def test_recorded_market_answers(recorded_file: Find) -> None:
    routes = json.loads(recorded_file("recordings/binance_rest/binance_http.json").read_bytes())["routes"]
    for answer in routes["/fapi/v1/klines"]["GET"]:
        rows = parse_klines(json.dumps(answer["data"]).encode()) if isinstance(answer["data"], list) else []
        if len(rows) > 1:
            step_ms = rows[0][1] + 1 - rows[0][0].open_ms
            assert find_fault([bar for bar, _ in rows], step_ms) is None
    info = parse_exchange_info(json.dumps(routes["/fapi/v1/exchangeInfo"]["GET"][0]["data"]).encode())
    assert info.weight_limit == 2400
    bitcoin = info.instruments["BTCUSDT"]
    assert (bitcoin.tick_size, bitcoin.lot_size, bitcoin.min_notional) == (
        Decimal("0.10"),
        Decimal("0.001"),
        Decimal(100),
    )
    assert (bitcoin.market_max_quantity, bitcoin.canonical) == (Decimal(120), "BTC/USDT:USDT")
    assert parse_time(json.dumps(routes["/fapi/v1/time"]["GET"][0]["data"]).encode()) == 1620099477465


def test_income_is_told_under_the_ids_of_the_stream() -> None:
    rows = [
        {
            "incomeType": "FUNDING_FEE",
            "income": "-0.50",
            "asset": "USDT",
            "time": 28_800_000,
            "symbol": "BTCUSDT",
        },
        {"incomeType": "REALIZED_PNL", "income": "3", "asset": "USDT", "time": 1, "symbol": "BTCUSDT"},
        {"incomeType": "COMMISSION", "income": "-3", "asset": "USDT", "time": 1, "symbol": "BTCUSDT"},
        {"incomeType": "TRANSFER", "income": "10", "asset": "USDT", "time": 2_000, "symbol": ""},
    ]
    causes, size, last_ms = parse_incomes(json.dumps(rows).encode())
    assert causes == (
        FundingPaid(28_800_000, "BTCUSDT", Decimal("-0.50"), "8:USDT:-0.5"),
        Transferred(2_000, "USDT", Decimal(10), "2:USDT:10"),
    )
    assert (size, last_ms) == (4, 2_000)


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        ("NEW", OrderStatus.ACCEPTED),
        ("TRIGGERED", OrderStatus.ACCEPTED),
        ("CANCELED", OrderStatus.CANCELED),
        ("EXPIRED", OrderStatus.EXPIRED),
        ("REJECTED", OrderStatus.REJECTED),
        ("WONDERFUL", OrderStatus.UNKNOWN),
    ],
)
def test_states_of_conditional_orders(status: str, meaning: OrderStatus) -> None:
    body = {"algoId": 1, "clientAlgoId": "q1", "algoStatus": status, "actualOrderId": "77"}
    algo = parse_algo(json.dumps(body).encode())
    assert (algo.report.status, algo.child_id) == (meaning, "77")


def test_another_answer_is_a_typed_error() -> None:
    with pytest.raises(PayloadError, match="something else"):
        parse_order(b'{"orderId": "x"}')
    assert parse_error(b'{"code":-2013,"msg":"Order does not exist."}').code == -2013
