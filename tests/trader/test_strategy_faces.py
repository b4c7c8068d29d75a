"""A strategy class in the real-time trader: restarts, resting stops, and several symbols at once."""

from pathlib import Path
from typing import Any

from qmtl.core.event import DecisionMade, IntentRecorded
from qmtl.core.order import Role
from qmtl.engine.loader import load_strategy
from qmtl.engine.replay import replay
from qmtl.runtime.sdk.lowered import LOWERED, dump_lowered
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.services.paper_exchange.settings import MarketSettings
from tests.trader.floor import Floor, floor
from tests.trader.test_rt_trader import read


def options(name: str, symbols: str = "BTCUSDT") -> dict[str, Any]:
    """What a trader of one of the tests' strategies is made with."""
    source = load_source(f"tests.runtime.sdk.strategies:{name}")
    plan = TradePlan(symbols=symbols)
    params = dump_lowered(source, make_strategy(source.cls), plan)
    return {"strategy": LOWERED, "params": params, "symbols": plan.markets}


async def test_a_restart_keeps_position_bars_and_the_stop_at_the_venue(tmp_path: Path) -> None:
    async with floor(tmp_path, "venue") as place:
        async with place.trading(place.make(**options("BandBreak"))) as first:
            await place.step_until(first, lambda: first.engine.account.net_quantity("BTCUSDT"))
            await place.step(first)
        held = first.engine.account.net_quantity("BTCUSDT")
        rows: Any = first.engine.strategy.dump_state()
        assert held == place.held()
        async with place.trading(place.make(**options("BandBreak"))) as second:
            again: Any = second.engine.strategy.dump_state()
            assert again["bars"] == rows["bars"]
            resting = {order.intent.role for order in second.engine.risk.working.values()}
            assert {Role.STOP, Role.TARGET} <= resting
            await place.step_until(second, lambda: second.engine.account.net_quantity("BTCUSDT") != held)
            await place.step_until(second, lambda: second.desk.status()["counts"].get("fills", 0) >= 4)
            assert second.desk.status()["errors"] == []
        events = read(second.journal_path)
        replayed = replay(enumerate(events, 1), load_strategy)
        assert replayed is not None
        assert replayed.engine.state_hash() == second.engine.state_hash()


async def test_02_6_two_symbols_trade_live_minute_by_minute(tmp_path: Path) -> None:
    markets = (MarketSettings(), MarketSettings(symbol="ETHUSDT", price=3_000.0, seed=8))
    async with floor(tmp_path, markets=markets) as place:
        trader = place.make(**options("Laggard", "BTCUSDT,ETHUSDT"))
        async with place.trading(trader):
            await place.step_until(trader, lambda: decided_entries(trader.engine.journal, place), limit=600)
    events = read(trader.journal_path)
    decisions = [event for event in events if isinstance(event, DecisionMade)]
    assert len({(one.symbol, one.open_ms) for one in decisions}) == len(decisions)
    assert {event.intent.symbol for event in events if isinstance(event, IntentRecorded)} == {
        "BTCUSDT", "ETHUSDT",
    }  # fmt: skip
    told = [one for one in decisions if one.numbers]
    assert {one.symbol for one in told} == {"BTCUSDT", "ETHUSDT"}
    replayed = replay(enumerate(events, 1), load_strategy)
    assert replayed is not None
    assert replayed.engine.state_hash() == trader.engine.state_hash()


def decided_entries(journal: Any, place: Floor) -> bool:
    """Both symbols were entered."""
    entered = {event.intent.symbol for _, event in journal.read() if isinstance(event, IntentRecorded)}
    return len(entered) == 2
