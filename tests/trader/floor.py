"""A paper exchange stepped by hand, and the whole real-time trader connected to it over loopback."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from qmtl.core.order import UNSETTLED
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.engine.venue_models import UnlimitedLiquidity
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import PaperExchangeConfig
from qmtl.settings import Settings
from qmtl.trader.rt_trader import RealTimeTrader

START_MS = 1_700_000_040_000
PACE = 0.01
LONG_S = 30.0


class FollowClock:
    """The exchange's time, and sleeps that take a hundredth of what they say, but for very long ones.

    Clocks are compared once at the start: during a step the exchange's time leaps.
    """

    speed = 1.0

    def __init__(self, leader: VirtualClock) -> None:
        self._leader = leader

    def now_ms(self) -> int:
        return self._leader.now_ms()

    def real_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    async def sleep(self, real_s: float) -> None:
        await asyncio.sleep(real_s if real_s > LONG_S else real_s * PACE)


class Floor:
    """One exchange, and traders that come and go."""

    def __init__(self, home: Path, fills: str) -> None:
        self.home, self.fills = home, fills
        self.leader = VirtualClock(START_MS)
        self.clock = FollowClock(self.leader)
        self._seed = 0

    async def start(self, **config: Any) -> None:
        config = {"is_manual": True, "liquidity": UnlimitedLiquidity(), **config}
        self.exchange = PaperExchange(PaperExchangeConfig(**config), self.leader)
        self.urls = await self.exchange.start()

    def settings(self, **sections: dict[str, Any]) -> Settings:
        account = {"name": "test", "base_url": self.urls["rest"], "ws_url": self.urls["ws"]}
        account |= {"fills": self.fills, "api_key": "paper", "secret": "paper"}
        body: dict[str, Any] = {"journal": {"directory": str(self.home)}}
        # A quiet cool-down and no volatility gate: many trades in few candles.
        body["trader"] = {"decision": {"cooldown_s": 0, "has_volatility_gate": False}}
        body["account"] = account | sections.pop("account", {})
        return Settings.model_validate(body | sections)

    def make(self, settings: Settings | None = None, **options: Any) -> RealTimeTrader:
        self._seed += 1
        return RealTimeTrader(
            settings or self.settings(), clock=self.clock, random=SeededRandom(self._seed), **options
        )

    @asynccontextmanager
    async def trading(self, trader: RealTimeTrader | None = None) -> AsyncIterator[RealTimeTrader]:
        """A trader that runs inside the block and is stopped after it."""
        trader = trader or self.make()
        await trader.open()
        run = asyncio.create_task(trader.run())
        try:
            await self.until(lambda: run.done() or not self._stale(trader))
            yield trader
            await trader.stop("the test is over")
        finally:
            await trader.stop("the test failed")
            await run

    def _stale(self, trader: RealTimeTrader) -> list[str]:
        # Market streams speak at the first step; before it the connection is what there is to wait for.
        if trader.desk.status()["clock_offset_ms"] is None:
            return ["clock"]
        feed = trader.parts.feed
        user = [
            name for name, (_, is_fresh) in feed.watch.ages_s().items() if name == "user" and not is_fresh
        ]
        return user or ([] if trader.engine.strategy.is_warm else ["warm-up"])

    async def step(self, trader: RealTimeTrader, count: int = 1) -> None:
        """Publish updates, each once everything before it is answered."""
        for _ in range(count):
            update = await self.exchange.step()
            assert update is not None
            await self.until(partial(self._is_quiet, trader, update.ts_ms))

    async def step_until(self, trader: RealTimeTrader, is_so: Callable[[], object], limit: int = 400) -> None:
        for _ in range(limit):
            if is_so():
                return
            await self.step(trader)
        assert is_so(), (trader.engine.risk.entry_bans, trader.desk.status()["reasons"])

    def _is_quiet(self, trader: RealTimeTrader, ts_ms: int) -> bool:
        engine = trader.engine
        if engine.risk.now_ms < ts_ms or any(o.status in UNSETTLED for o in engine.orders.open()):
            return False
        return self.fills == "simulated" or engine.account.net_quantity("BTCUSDT") == self.held()

    def held(self) -> Decimal:
        """What the exchange says is held."""
        return self.exchange.exchange.accounts["paper"].core.account.net_quantity("BTCUSDT")

    async def until(self, is_so: Callable[[], object], within_s: float = 60.0) -> None:
        end = asyncio.get_running_loop().time() + within_s
        while not is_so():
            assert asyncio.get_running_loop().time() < end, "waited in vain"
            await asyncio.sleep(0.001)


@asynccontextmanager
async def floor(home: Path, fills: str = "simulated", **config: Any) -> AsyncIterator[Floor]:
    place = Floor(home, fills)
    await place.start(**config)
    try:
        yield place
    finally:
        await place.exchange.stop()
