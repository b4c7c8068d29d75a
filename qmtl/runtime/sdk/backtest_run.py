"""The event tier: one strategy over recorded candles, on the engine and the simulated venue."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from decimal import Decimal

import msgspec

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    FlattenRequested,
    PriceUpdated,
    SessionSetup,
    SessionStarted,
    Transferred,
)
from qmtl.engine.backtest import Backtest
from qmtl.engine.candle_path import CandlePath, candle_ticks
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.strategy import SilentStrategy, StrategyPort
from qmtl.runtime.sdk.backtest_job import BacktestJob, Segment
from qmtl.runtime.sdk.backtest_result import BacktestResult, collect_result
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.foreseen_face import ForeseenFace
from qmtl.runtime.sdk.funded_venue import FundedVenue
from qmtl.runtime.sdk.lowered import LOWERED, Plain, lower
from qmtl.runtime.sdk.market_history import MarketHistory
from qmtl.runtime.sdk.signal_face import SignalFace
from qmtl.runtime.sdk.signal_reader import TableReader, check
from qmtl.runtime.sdk.signals import Signals
from qmtl.runtime.sdk.strategy import Strategy, make_strategy

EVERY = 2_000
"""Bars between two calls of a progress listener."""

Progress = Callable[[int, int], None]
"""Takes bars done and bars in all."""


def run_backtest(job: BacktestJob, progress: Progress | None = None) -> BacktestResult:
    """Run the job; a strategy that decides inside bars runs along both paths, the worse one is the result.

    Whatever the strategy's own code raises goes through.
    """
    if not job.wants_ticks:
        return _run(job, job.terms, progress)
    paths = (CandlePath.OPEN_LOW_HIGH_CLOSE, CandlePath.OPEN_HIGH_LOW_CLOSE)
    results = [
        _run(replace(job, strategy=strategy), msgspec.structs.replace(job.terms, path=path), progress)
        for path, strategy in zip(paths, _unused(job.strategy, len(paths)), strict=True)
    ]
    worse, better = sorted(results, key=lambda result: result.net)
    worse.other_bound = better
    return worse


def _unused(strategy: Strategy, count: int) -> list[Strategy]:
    """Return the strategy `count` times, of which no run sees what another left in it."""
    if strategy.face() == "signals":
        return [strategy] * count
    return [strategy, *(_copied(strategy) for _ in range(count - 1))]


def _copied(strategy: Strategy) -> Strategy:
    try:
        return deepcopy(strategy)
    except TypeError:
        # It holds what cannot be copied, such as a model's session: made anew, as for live.
        return make_strategy(type(strategy), strategy.chosen)


def _run(job: BacktestJob, terms: BacktestTerms, progress: Progress | None) -> BacktestResult:
    pieces = {symbol: history.without(job.excluded) for symbol, history in job.histories.items()}
    counts = {len(piece) for piece in pieces.values()}
    if len(counts) != 1:
        raise ValueError("histories of several symbols must cover the same stretches")
    total = sum(len(history.bars) for parts in pieces.values() for history in parts)
    segments: list[Segment] = []
    wallet, done = terms.wallet, 0
    number = counts.pop()
    for at, strategy in enumerate(_unused(job.strategy, number)):
        part = {symbol: parts[at] for symbol, parts in pieces.items()}
        segment = _run_segment(
            replace(job, strategy=strategy), terms, part, wallet,
            is_last=at == number - 1, done=done, total=total, progress=progress,
        )  # fmt: skip
        wallet = segment.wallet
        done += sum(len(history.bars) for history in part.values())
        segments.append(segment)
    return collect_result(job, terms, segments)


def _run_segment(
    job: BacktestJob,
    terms: BacktestTerms,
    histories: dict[str, MarketHistory],
    wallet: Decimal,
    *,
    is_last: bool,
    done: int,
    total: int,
    progress: Progress | None,
) -> Segment:
    port, signals = _make_port(job, histories)
    journal = MemoryJournal("backtest")
    engine = Engine(port, journal)
    instruments = dict(job.instruments)
    rates = {symbol: history.funding for symbol, history in histories.items()}
    venue = FundedVenue(terms.make_venue(instruments, wallet), rates, is_continuous=job.wants_ticks)
    driver = Backtest(engine, venue)
    start_ms = min(history.start_ms for history in histories.values())
    setup = SessionSetup(
        strategy=LOWERED,
        params=_describe(job),
        instruments=tuple(instruments.values()),
        limits=msgspec.structs.replace(terms.limits, max_daily_loss=None, max_drawdown=None),
        asset=terms.asset,
    )
    driver.start(
        SessionStarted(start_ms, "backtest", "backtest", setup),
        Transferred(start_ms, terms.asset, wallet, "first balance"),
    )
    wants_price = getattr(type(port), "on_price", None) is not SilentStrategy.on_price and job.wants_ticks
    bars = [history.bars for history in histories.values()]
    if wants_price:
        events = _walk(bars, terms.path)
        driver.run(events if progress is None else _told(events, progress, done, total))
    else:
        _feed(driver, list(closed_events(bars)), progress, done, total)
    if not is_last:
        venue.fill_now()
        driver.run([FlattenRequested(engine.risk.now_ms, "backtest", "excluded")])
    return Segment(journal, histories, signals, venue.missing, engine.account.wallet)


def _describe(job: BacktestJob) -> dict[str, Plain]:
    plan: dict[str, Plain] = {f"plan.{name}": value for name, value in job.plan.dump().items()}
    return plan | {f"param.{name}": value for name, value in job.strategy.chosen.items()}


def _make_port(
    job: BacktestJob, histories: Mapping[str, MarketHistory]
) -> tuple[StrategyPort, dict[str, Signals]]:
    """Return the port, and the signals it reads where they could be computed at once."""
    strategy = job.strategy
    if strategy.face() != "signals" or strategy.decide_on == "tick":
        return lower(strategy, job.plan, job.warmup), {}
    markets = {symbol: history.bars for symbol, history in histories.items()}
    readers, signals = {}, {}
    for symbol, bars in markets.items():
        others = {name: other for name, other in markets.items() if name != symbol}
        found = check(strategy, bars.with_others(others) if others else bars)
        signals[symbol] = found
        readers[symbol] = TableReader(found, bars, job.warmup)
    if len(readers) == 1:
        ((symbol, reader),) = readers.items()
        return ForeseenFace(strategy, job.plan, symbol, reader), signals
    return SignalFace(strategy, job.plan, readers), signals


# --- events ---------------------------------------------------------------------------------------


def closed_events(markets: Sequence[Bars]) -> Iterator[AnyEvent]:
    """Return every closed bar in order of time, then of symbol."""
    if len(markets) == 1:
        return _bars_of(markets[0])
    rows = [(event.open_ms, number, event) for number, bars in enumerate(markets) for event in _bars_of(bars)]
    return iter([event for _, _, event in sorted(rows, key=lambda row: row[:2])])


def _bars_of(bars: Bars) -> Iterator[BarClosed]:
    last = bars.interval_ms - 1
    columns = (bars.open_ms, bars.open, bars.high, bars.low, bars.close, bars.volume)
    symbol = bars.symbol
    for opened, *prices in zip(*(column.tolist() for column in columns), strict=True):
        yield BarClosed(opened + last, symbol, opened, *prices)


def _walk(markets: Sequence[Bars], path: CandlePath) -> Iterator[AnyEvent]:
    """Yield each bar as updates of the forming candle along `path`, then as closed."""
    interval = markets[0].interval_ms
    for closed in closed_events(markets):
        if isinstance(closed, BarClosed):
            for tick in candle_ticks(closed, path, interval)[:-1]:
                yield PriceUpdated(
                    closed.open_ms + tick.offset_ms,
                    closed.symbol,
                    closed.open_ms,
                    closed.open,
                    tick.high,
                    tick.low,
                    tick.price,
                    tick.volume,
                )
        yield closed


def _feed(
    driver: Backtest, bars: Sequence[AnyEvent], progress: Progress | None, done: int, total: int
) -> None:
    """Feed closed bars in lists, of which a strategy may foresee a part."""
    size = EVERY if progress is not None else max(1, len(bars))
    for at in range(0, len(bars), size):
        driver.run(bars[at : at + size])
        if progress is not None:
            progress(done + min(at + size, len(bars)), total)


def _told(events: Iterator[AnyEvent], progress: Progress, done: int, total: int) -> Iterator[AnyEvent]:
    for event in events:
        if type(event) is BarClosed:
            done += 1
            if not done % EVERY:
                progress(done, total)
        yield event
    progress(done, total)
