"""One HALT stops a trader that sends all the time, at the venue and across restarts (operations.md §8.1)."""

from pathlib import Path

import pytest

from qmtl.core.event import TradingStateSet
from qmtl.core.reason import TradingState
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.trader.rt_trader import RealTimeTrader
from tests.trader.floor import Floor, floor

ORDER = "POST /fapi/v1/order"


def make(place: Floor) -> RealTimeTrader:
    settings = place.settings(risk={"orders_per_minute": 10_000})
    return place.make(settings, strategy="tests.simulation.restless:Restless", params={})


def sent(place: Floor) -> int:
    """How many orders the venue ever took, but for protecting stops and what they became."""
    account = place.exchange.exchange.accounts["paper"]
    return sum(not order.algo_id for order in account.orders.values())


async def set_state(place: Floor, trader: RealTimeTrader, state: TradingState) -> None:
    await trader.desk.post(TradingStateSet(place.clock.now_ms(), state, "test", "enough"))


@pytest.mark.parametrize("is_waiting", [False, True], ids=["at once", "while an order waits its turn"])
async def test_nothing_but_protection_follows_a_halt(tmp_path: Path, *, is_waiting: bool) -> None:
    async with floor(tmp_path, "venue") as place:
        async with place.trading(make(place)) as first:
            await place.step_until(first, lambda: sent(place) >= 10)
            await place.step_until(first, place.held)
            if is_waiting:
                rule = FaultRule(kind=FaultKind.STATUS, route=ORDER, status=429, seconds=20.0, times=1)
                place.exchange.exchange.faults.add(rule)
                while not rule.hits:
                    await place.exchange.step()
                    await place.until(lambda: first.engine.risk.now_ms >= place.clock.now_ms())
            before = sent(place)
            await set_state(place, first, TradingState.HALTED)
            await place.step(first, 40)
            assert sent(place) == before
            assert not first.engine.risk.working
            guards = first.desk.status()["positions"]
            assert all(held["has_stop"] for held in guards)
        assert first.engine.risk.state is TradingState.HALTED
        async with place.trading(make(place)) as second:
            assert second.engine.risk.state is TradingState.HALTED
            # The venue tells the fills around a restart again; they are no news.
            assert second.desk.status()["counts"]["fills"] == 0
            await place.step(second, 40)
            assert sent(place) == before
            await set_state(place, second, TradingState.ACTIVE)
            await place.step_until(second, lambda: sent(place) > before)
