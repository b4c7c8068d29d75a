"""A dry run of a strategy file over given candles: the live driver, simulated fills, a journal on disk."""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    PriceUpdated,
    SessionSetup,
    SessionStarted,
    TimerFired,
    Transferred,
)
from qmtl.engine.candle_path import candle_ticks
from qmtl.engine.clock import VirtualClock
from qmtl.engine.engine import Engine
from qmtl.engine.journal import SqliteJournal
from qmtl.engine.live import LiveEngine
from qmtl.engine.loader import load_strategy
from qmtl.engine.matching import MatchingCore
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import StrategyPort
from qmtl.engine.venue_models import VenueModels
from qmtl.runtime.sdk.lowered import LOWERED, dump_lowered
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import keep_copy, load_source
from qmtl.runtime.sdk.trade_plan import TradePlan
from tests.runtime.sdk.backtest_rig import instrument

MINUTE_MS = 60_000
WARMUP = 40
WALLET = Decimal(10_000)
Change = Callable[[StrategyPort], StrategyPort]


def candles(rows: Iterable[tuple[Any, ...]]) -> Iterator[BarClosed]:
    """Bars of (open_s, open, high, low, close, volume)."""
    for open_s, opened, high, low, close, volume in rows:
        open_ms = open_s * 1000
        yield BarClosed(open_ms + MINUTE_MS - 1, "BTCUSDT", open_ms, opened, high, low, close, volume)


def ticked(bars: Iterable[BarClosed]) -> Iterator[AnyEvent]:
    """Each bar as a live feed tells it: updates of the forming candle, then closed; the first as history."""
    for number, bar in enumerate(bars):
        if number < WARMUP:
            yield replace(bar, warmup=True)
            continue
        for offset_ms, price, high, low, volume, _ in candle_ticks(bar):
            at_ms = bar.open_ms + offset_ms
            yield PriceUpdated(at_ms, bar.symbol, bar.open_ms, bar.open, high, low, price, volume)
        yield bar


def dry_run(
    journal_path: Path,
    file: Path,
    events: Iterable[AnyEvent],
    *,
    models: VenueModels | None = None,
    change: Change = lambda port: port,
    checkpoint_every: int = 0,
) -> None:
    """Trade `events` by the strategy of `file`; `change` puts something between it and the engine.

    With `checkpoint_every` bars a snapshot is stored, as the trader does.
    """
    source = load_source(str(file))
    strategy = make_strategy(source.cls, {})
    plan = TradePlan(symbols="BTCUSDT", interval=strategy.interval, quantity=Decimal("0.01"))
    kept = journal_path.parent / "strategies"
    keep_copy(source, kept)
    params = dump_lowered(source, strategy, plan, kept)
    setup = SessionSetup(strategy=LOWERED, params=params, instruments=(instrument(),))
    journal = SqliteJournal(journal_path, "epoch", account="desk")
    engine = Engine(change(load_strategy(setup)), journal)
    clock = VirtualClock(0)
    core = MatchingCore({"BTCUSDT": instrument()}, models=models, first_wallet=WALLET)
    live = LiveEngine(engine, journal, clock, [], matching=SimulatedVenue(core))
    bars = 0
    for event in events:
        if not engine.state.domain:
            started = SessionStarted(event.ts_ms, "epoch", "dryrun", setup)
            live.begin(started, load_strategy)
            live.take(Transferred(event.ts_ms, "USDT", WALLET, "first balance"))
        while (wakes := engine.state.wakes) and wakes[0] <= event.ts_ms:
            live.take(TimerFired(wakes[0]))
        clock.set_now_ms(max(clock.now_ms(), event.ts_ms))
        live.take(event)
        bars += isinstance(event, BarClosed)
        if checkpoint_every and isinstance(event, BarClosed) and not bars % checkpoint_every:
            journal.store_snapshot(engine.snapshot(), engine.state_hash(), event.ts_ms)
    journal.close()
