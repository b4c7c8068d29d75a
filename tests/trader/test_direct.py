"""HALT and FLATTEN with the keys alone, against the paper exchange."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qmtl.core.order import Side
from qmtl.engine.clock import SeededRandom, SystemClock
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_orders import OrderRequest
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.trader import direct

ORDER, ALGO = "/fapi/v1/order", "/fapi/v1/algoOrder"


@asynccontextmanager
async def venue() -> AsyncIterator[tuple[PaperExchange, BinanceFuturesClient]]:
    clock = SystemClock()
    exchange = PaperExchange(PaperExchangeConfig(), clock)
    urls = await exchange.start()
    client = BinanceFuturesClient("paper", "paper", urls["rest"], clock=clock, random=SeededRandom(1))
    try:
        yield exchange, client
    finally:
        await client.aclose()
        await exchange.stop()


async def place(client: BinanceFuturesClient, path: str = ORDER, **params: str) -> None:
    await client.post(OrderRequest(path, "order.place", {"symbol": "BTCUSDT", **params}))


async def open_position(client: BinanceFuturesClient) -> None:
    """A long position, its stop at the venue, a resting entry, a resting exit and a stop that would enter."""
    mark = float((await client.klines("BTCUSDT", "1m", limit=1))[-1].close)
    limit = {"type": "LIMIT", "timeInForce": "GTC", "quantity": "0.020"}
    await place(client, side="BUY", type="MARKET", quantity="0.020")
    await place(client, side="BUY", price=f"{mark * 0.98:.1f}", newClientOrderId="entry-1", **limit)
    await place(
        client, side="SELL", price=f"{mark * 1.02:.1f}", reduceOnly="true", newClientOrderId="exit-1", **limit
    )
    stop = {"algoType": "CONDITIONAL", "type": "STOP_MARKET"}
    await place(
        client,
        ALGO,
        side="SELL",
        triggerPrice=f"{mark * 0.95:.1f}",
        closePosition="true",
        clientAlgoId="stop-1",
        **stop,
    )
    await place(
        client,
        ALGO,
        side="BUY",
        triggerPrice=f"{mark * 1.03:.1f}",
        quantity="0.020",
        clientAlgoId="entry-2",
        **stop,
    )


async def test_halt_cancels_what_opens_and_keeps_what_protects() -> None:
    async with venue() as (_, client):
        await open_position(client)
        report = await direct.halt_directly(client)
        assert sorted(report.cancelled) == ["entry-1", "entry-2"]
        assert sorted(report.kept) == ["exit-1", "stop-1"]
        assert report.positions == ["0.02 BTCUSDT"]
        assert [order.clientOrderId for order in await client.open_orders()] == ["exit-1"]
        assert [order.clientAlgoId for order in await client.open_algo_orders()] == ["stop-1"]
        again = await direct.halt_directly(client)
        assert again.cancelled == []


@pytest.mark.parametrize("side", list(Side))
async def test_flatten_closes_everything_and_leaves_no_order(side: Side) -> None:
    async with venue() as (_, client):
        if side is Side.BUY:
            await open_position(client)
        else:
            await place(client, side="SELL", type="MARKET", quantity="0.020")
        report = await direct.flatten_directly(client)
        assert report.positions == []
        assert sum(float(text.split()[1]) for text in report.closed) >= 0.02
        assert not await client.positions()
        assert not await client.open_orders()
        assert not await client.open_algo_orders()


async def test_flatten_of_nothing_is_done_at_once() -> None:
    async with venue() as (_, client):
        report = await direct.flatten_directly(client)
        assert (report.closed, report.cancelled) == ([], [])


async def test_a_venue_that_refuses_cancels_is_named() -> None:
    async with venue() as (exchange, client):
        await open_position(client)
        client.max_retries = 0
        exchange.exchange.faults.add(
            FaultRule(kind=FaultKind.STATUS, route="DELETE /fapi/v1/order", status=503)
        )
        with pytest.raises(direct.DirectError, match="orders still open after 5 rounds: entry-1"):
            await direct.halt_directly(client)


async def test_a_lost_answer_closes_once() -> None:
    async with venue() as (exchange, client):
        await open_position(client)
        exchange.exchange.faults.add(
            FaultRule(kind=FaultKind.LOST_ANSWER, route="POST /fapi/v1/order", status=503, times=1)
        )
        await direct.flatten_directly(client)
        assert not await client.positions()
        trades = await client.user_trades("BTCUSDT", client.now_ms() - 60_000)
        sold = sum(trade.qty for trade in trades if trade.side is Side.SELL)
        assert sold == sum(trade.qty for trade in trades if trade.side is Side.BUY)
