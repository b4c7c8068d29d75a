"""What befalls an account beside its orders, through the whole stack: exchange, socket, journal, engine."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from qmtl.core.event import FundingPaid
from qmtl.core.interval import FUNDING_MS
from qmtl.core.order import PositionSide, Side
from qmtl.core.reason import TradingState
from qmtl.engine.clock import VirtualClock
from qmtl.engine.journal import open_journal, read_events
from qmtl.engine.loader import load_strategy
from qmtl.engine.replay import replay
from qmtl.services.paper_exchange.settings import MarketSettings
from qmtl.trader.rt_trader import RealTimeTrader
from tests.trader.floor import START_MS, Floor, FollowClock

MINUTE_MS = 60_000


def market(home: Path, start_ms: int, closes: Sequence[float], **settings: Any) -> MarketSettings:
    """Candles that begin at `start_ms` and go straight from one close to the next."""
    opens = [closes[0], *closes[:-1]]
    rows = {
        "open_time": [start_ms + number * MINUTE_MS for number in range(len(closes))],
        "open": opens,
        "high": [max(pair) for pair in zip(opens, closes, strict=True)],
        "low": [min(pair) for pair in zip(opens, closes, strict=True)],
        "close": list(closes),
        "volume": [1000.0] * len(closes),
    }
    path = home / "candles.csv"
    pl.DataFrame(rows).write_csv(path)
    return MarketSettings(candles=path, **settings)


@asynccontextmanager
async def place_of(home: Path, start_ms: int, **config: Any) -> AsyncIterator[Floor]:
    place = Floor(home / "home", "venue")
    place.leader = VirtualClock(start_ms - 1)
    place.clock = FollowClock(place.leader)
    await place.start(**config)
    try:
        yield place
    finally:
        await place.exchange.stop()


def make(place: Floor, quantity: str, sides: str = "BOTH", **account: Any) -> RealTimeTrader:
    return place.make(
        place.settings(account=account),
        strategy="tests.simulation.holder:Holder",
        params={"quantity": quantity, "sides": sides},
    )


def books(place: Floor) -> dict[str, Decimal]:
    """What the exchange says is held, by side, and in the wallet."""
    account = place.exchange.exchange.accounts["paper"].core.account
    held = {position.side.value: position.quantity for position in account.positions.values()}
    return {side: quantity for side, quantity in held.items() if quantity} | {"wallet": account.wallet}


def told(trader: RealTimeTrader) -> dict[str, Decimal]:
    """What the engine says."""
    account = trader.engine.account
    held = {position.side.value: position.quantity for position in account.positions.values()}
    return {side: quantity for side, quantity in held.items() if quantity} | {"wallet": account.wallet}


def assert_replays(trader: RealTimeTrader) -> None:
    with closing(open_journal(trader.journal_path)) as db:
        replayed = replay(read_events(db, trader.journal_path), load_strategy)
    assert replayed is not None
    assert replayed.engine.state_hash() == trader.engine.state_hash()


async def test_both_sides_of_a_hedge_are_held_protected_and_kept_over_a_restart(tmp_path: Path) -> None:
    async with place_of(tmp_path, START_MS) as place:
        hedged = {"position_mode": "hedge"}
        trader = make(place, "0.02", "LONG,SHORT", **hedged)
        await trader.client.set_hedge_mode(is_on=True)
        async with place.trading(trader) as first:
            await place.step_until(first, lambda: set(books(place)) == {"LONG", "SHORT", "wallet"})
            await place.step(first, 4)
            await place.until(lambda: told(first) == books(place))
            sides = {PositionSide.LONG: Side.SELL, PositionSide.SHORT: Side.BUY}
            stops = first.engine.state.protections.values()
            assert {stop.intent.position_side: stop.intent.side for stop in stops} == sides
        async with place.trading(make(place, "0.02", "LONG,SHORT", **hedged)) as second:
            await place.step(second, 4)
            assert told(second) == books(place)
            assert second.desk.status()["counts"]["orders"] == 0
            assert second.engine.risk.state is TradingState.ACTIVE
        assert_replays(second)


async def test_funding_reaches_the_engine_to_the_last_decimal(tmp_path: Path) -> None:
    start_ms = START_MS - START_MS % FUNDING_MS + FUNDING_MS - 3 * MINUTE_MS
    rates = pl.DataFrame({"open_time": [start_ms + 3 * MINUTE_MS], "open": [0.000123]})
    rates.write_csv(tmp_path / "funding.csv")
    prices = [50_000.0 + number for number in range(12)]
    markets = (market(tmp_path, start_ms, prices, funding=tmp_path / "funding.csv"),)
    async with place_of(tmp_path, start_ms, markets=markets) as place:
        async with place.trading(make(place, "0.1")) as trader:
            await place.step_until(trader, lambda: trader.engine.account.funding, limit=24)
            assert told(trader) == books(place)
            assert trader.engine.account.funding < 0
            trader.engine.account.check_conservation()
            await place.step(trader, 4)
        with closing(open_journal(trader.journal_path)) as db:
            events = [event for _, event in read_events(db, trader.journal_path)]
        assert len({event.funding_id for event in events if isinstance(event, FundingPaid)}) == 1
        assert_replays(trader)


async def test_a_liquidation_is_booked_as_the_venue_booked_it(tmp_path: Path) -> None:
    prices = [50_000.0, 50_000.0, 50_010.0, 50_000.0, 49_300.0, 49_310.0, 49_300.0, 49_310.0]
    markets = (market(tmp_path, START_MS, prices),)
    async with place_of(tmp_path, START_MS, markets=markets) as place:
        async with place.trading(make(place, "0.1", leverage=100)) as trader:
            await place.step_until(trader, place.held, limit=8)
            await place.step_until(trader, lambda: not place.held(), limit=16)
            await place.step(trader, 2)
            assert told(trader) == books(place)
            assert books(place)["wallet"] < 9_990
            status = trader.desk.status()
            assert "foreign_fill" in {error["code"] for error in status["errors"]}
            assert trader.engine.risk.state is TradingState.REDUCING
            trader.engine.account.check_conservation()
        assert_replays(trader)
