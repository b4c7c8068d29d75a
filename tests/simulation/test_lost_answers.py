"""trader.md §7 item 9: orders the venue took and then failed to answer for; one venue order per intent."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable
from decimal import Decimal

import pytest

from qmtl.core.event import OrderAccepted, OrderUnsettled
from qmtl.core.order import Order, OrderIntent, OrderType, Side, TimeInForce
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.services.paper_exchange.settings import PaperExchangeConfig, WeightLimits
from tests.simulation.parity import FollowClock

START_MS = 1_750_000_020_000
AT_ONCE = 10
SHARE = 0.05


def make_order(number: int) -> Order:
    intent = OrderIntent(
        symbol="BTCUSDT",
        side=Side.BUY if number % 2 else Side.SELL,
        quantity=Decimal("0.010"),
        type=OrderType.LIMIT,
        limit_price=Decimal(59_000) if number % 2 else Decimal(61_500),
        time_in_force=TimeInForce.IOC,
    )
    return Order(
        client_order_id=f"q{number:026d}",
        intent=intent,
        ordinal=number,
        created_ms=START_MS,
        updated_ms=START_MS,
    )


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
async def test_09_accepted_then_failed(count: Callable[[int, int], int]) -> None:
    orders = count(400, 10_000)
    leader = VirtualClock(START_MS)
    limits = WeightLimits(weight_1m=10**9, orders_10s=10**9, orders_1m=10**9)
    paper = PaperExchange(PaperExchangeConfig(is_manual=True, limits=limits), leader)
    urls = await paper.start()
    for kind in (FaultKind.DROP, FaultKind.LOST_ANSWER):
        paper.exchange.faults.add(FaultRule(kind=kind, route="POST /fapi/v1/order", chance=SHARE / 2))
    client = BinanceFuturesClient(
        "paper", "paper", urls["rest"], clock=FollowClock(leader), random=SeededRandom(9)
    )
    venue = BinanceFuturesVenue(client, ["BTCUSDT"])
    numbers = itertools.count(1)
    answers: Counter[str] = Counter()

    async def send() -> None:
        for number in numbers:
            if number > orders:
                return
            order = make_order(number)
            news = await venue.submit(order)
            while isinstance(news[-1], OrderUnsettled) if news else True:
                news = await venue.settle(order)
            answers[type(news[0]).__name__] += 1

    try:
        await paper.step()
        await asyncio.gather(*(send() for _ in range(AT_ONCE)))
        placed = Counter(order.client_id for order in paper.exchange.accounts["paper"].orders.values())
    finally:
        await venue.aclose()
        await paper.stop()
    failed = sum(rule.hits for rule in paper.exchange.faults.rules)
    print(f"{orders} orders, {failed} accepted and not answered for, {len(placed)} at the venue")
    assert failed >= orders * SHARE / 2
    assert placed == Counter(make_order(number).client_order_id for number in range(1, orders + 1))
    assert answers == {OrderAccepted.__name__: orders}
