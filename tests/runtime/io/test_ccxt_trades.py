"""Seamless §4: trades through real ccxt from the paper exchange, by time and by id."""

from collections.abc import Callable
from typing import Any

import pytest

from qmtl.runtime.io.ccxt_fetcher import CcxtTradesConfig, CcxtTradesFetcher
from qmtl.runtime.io.history_rows import RowError, parse_trades
from qmtl.runtime.sdk.history import EmptySpan, InvalidPayloadError
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError
from qmtl.services.paper_exchange.faults import FaultKind
from qmtl.services.paper_exchange.market import Trade
from tests.runtime.io.history_rig import T0, History, configure, history
from tests.runtime.leap_clock import MidRandom

__all__ = ["configure", "history"]
NODE = "trades:binance:BTC/USDT"
T0_MS = T0 * 1000
LATER_S = T0 + 30 * 86_400


def make(place: History, **fields: Any) -> CcxtTradesFetcher:
    given = {"exchange": "binance", "symbols": ["ETH/USDT", "BTC/USDT"], **fields}
    return CcxtTradesFetcher(CcxtTradesConfig(**given), clock=place.clock, rng=MidRandom())


def prints(*times_ms: int) -> list[Trade]:
    return [Trade(990 + n, ts, 100.0 + n, 0.5, n % 2 == 0) for n, ts in enumerate(times_ms)]


async def test_05_a_node_id_names_its_symbol_never_the_first_one(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    asked = []
    fetcher = make(place)
    trades = fetcher._trades.fetch_trades

    async def record(symbol: str, since_ms: int, limit: int) -> Any:
        asked.append(symbol)
        return await trades(symbol, since_ms, limit)

    fetcher._trades.fetch_trades = record  # type: ignore[method-assign]
    frame = await fetcher.fetch(T0, T0 + 600, node_id=NODE, interval=60)
    assert set(asked) == {"BTC/USDT"}
    assert frame.height == 40
    with pytest.raises(NodeIdError, match="not among"):
        await fetcher.fetch(T0, T0 + 600, node_id="trades:binance:LTC/USDT", interval=60)


@pytest.mark.parametrize("limit", [1000, 500, 900, 7])
async def test_10_every_trade_comes_once_900_of_them_in_one_millisecond(
    history: Callable[..., Any], limit: int
) -> None:
    place = await history(range(10), LATER_S)
    count = 3_000 if limit > 100 else 60
    crowd = 900 if limit > 100 else 30
    times = [T0_MS + 10 * n for n in range(count - crowd)]
    middle = len(times) // 2
    times[middle:middle] = [times[middle]] * crowd
    given = prints(*times)
    place.server.exchange.markets["BTCUSDT"].prints = given
    report = await make(place, batch_limit=limit).fetch_report(T0, T0 + 60, node_id=NODE, interval=1)
    ids = report.frame["id"].to_list()
    assert len(ids) == count
    assert set(ids) == {str(trade.trade_id) for trade in given}
    assert report.frame.rows() == sorted(report.frame.rows(), key=lambda row: (row[1], row[2]))
    first = report.frame.row(0)
    assert first == (T0, T0_MS, "990", 100.0, 0.5, "sell")


async def test_empty_hours_are_skipped_and_cells_between_trades_confirmed(
    history: Callable[..., Any],
) -> None:
    place = await history(range(10), LATER_S)
    given = prints(T0_MS + 5_000, T0_MS + 15_000, T0_MS + 3 * 3_600_000 + 1)
    place.server.exchange.markets["BTCUSDT"].prints = given
    report = await make(place).fetch_report(T0, T0 + 4 * 3600, node_id=NODE, interval=10)
    assert report.frame["id"].to_list() == ["990", "991", "992"]
    last_cell = T0 + 3 * 3600
    lasting = [span for span in report.confirmed_empty if span.permanent]
    daily = [span for span in report.confirmed_empty if not span.permanent]
    assert lasting == []
    # Every cell without a trade was asked twice: no single answer held a trade on both sides.
    assert [(span.start, span.end) for span in daily] == [
        (T0 + 20, last_cell),
        (last_cell + 10, T0 + 4 * 3600),
    ]
    report = await make(place).fetch_report(T0, T0 + 20, node_id=NODE, interval=2)
    assert EmptySpan(T0 + 6, T0 + 14, permanent=True) in report.confirmed_empty


async def test_only_closed_cells_are_delivered(history: Callable[..., Any]) -> None:
    place = await history(range(10), T0 + 95)
    place.server.exchange.markets["BTCUSDT"].prints = prints(*(T0_MS + 1_000 * n for n in range(0, 90, 5)))
    frame = await make(place).fetch(T0, T0 + 120, node_id=NODE, interval=60)
    assert frame["ts"].to_list() == list(range(T0, T0 + 60, 5))
    frame = await make(place).fetch(T0 + 7, T0 + 120, node_id=NODE, interval=1)
    assert frame["ts"].to_list() == list(range(T0 + 10, T0 + 90, 5))


async def test_a_full_millisecond_without_pages_by_id_is_an_invalid_payload(
    history: Callable[..., Any],
) -> None:
    place = await history(range(10), LATER_S)
    place.server.exchange.markets["BTCUSDT"].prints = prints(*[T0_MS] * 20)
    fetcher = make(place, batch_limit=10)
    kind = type(fetcher._source)
    fetcher._source.__class__ = type("Timed", (kind,), {"is_paged_by_id": False})
    with pytest.raises(InvalidPayloadError, match="10 trades or more in millisecond") as caught:
        await fetcher.fetch(T0, T0 + 60, node_id=NODE, interval=60)
    assert (caught.value.exchange, caught.value.symbol) == ("binance", "BTC/USDT")


async def test_trades_survive_faults(history: Callable[..., Any]) -> None:
    place = await history(range(10), LATER_S)
    given = prints(*(T0_MS + 100 * n for n in range(500)))
    place.server.exchange.markets["BTCUSDT"].prints = given
    place.fault(FaultKind.STATUS, "GET /api/v3/aggTrades", status=503, schedule=[2, 5])
    place.fault(FaultKind.REFUSE, "GET /api/v3/aggTrades", schedule=[3])
    frame = await make(place, batch_limit=50).fetch(T0, T0 + 60, node_id=NODE, interval=60)
    assert frame["id"].to_list() == [str(trade.trade_id) for trade in given]


def test_trades_without_an_id_are_named_by_what_they_are() -> None:
    rows: list[dict[str, Any]] = [
        {"timestamp": T0_MS, "price": 1.5, "amount": 2.0, "side": "buy", "id": None},
        {"timestamp": T0_MS, "price": 1.5, "amount": 2.0, "side": "buy"},
        {"timestamp": T0_MS, "price": 1.5, "amount": 2.0, "side": "sell"},
        {"timestamp": T0_MS + 1, "price": 1.5, "amount": 2.0, "side": None, "id": 7},
    ]
    frame = parse_trades(rows)
    assert frame["id"].to_list() == [
        f"~{T0_MS}:1.5:2.0:buy:0",
        f"~{T0_MS}:1.5:2.0:buy:1",
        f"~{T0_MS}:1.5:2.0:sell:0",
        "7",
    ]
    assert frame["side"].to_list() == ["buy", "buy", "sell", None]
    for bad in ({}, None, {"timestamp": 0, "price": 1, "amount": 1}, {**rows[0], "price": None}):
        with pytest.raises(RowError, match="trade 1 is malformed"):
            parse_trades([rows[0], bad])
