"""`qmtl backtest`: one run of a strategy over history, honest about costs and holes."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from qmtl.cli.backtest_text import describe_gaps, describe_holes, dump_bound, dump_data, dump_result
from qmtl.cli.invocation import BadInputError, Invocation
from qmtl.cli.stored_market import load_stored
from qmtl.cli.strategy_options import (
    ParamOption,
    ParamsFile,
    StrategyArgument,
    open_strategy,
    size_option,
)

if TYPE_CHECKING:
    from qmtl.core.instrument import Instrument
    from qmtl.runtime.sdk.backtest_job import BacktestJob
    from qmtl.runtime.sdk.backtest_result import BacktestResult
    from qmtl.runtime.sdk.market_history import MarketHistory
    from qmtl.runtime.sdk.strategy import Strategy
    from qmtl.runtime.sdk.strategy_file import StrategySource
    from qmtl.runtime.sdk.trade_plan import TradePlan
    from qmtl.settings import Settings

DataOption = Annotated[
    list[Path] | None,
    typer.Option("--data", help="A file of candles; one for each symbol, in their order."),
]
UnitOption = Annotated[
    str | None, typer.Option("--unit", help="Of whole numbers in the times of --data: s, ms, us, ns.")
]
SymbolOption = Annotated[
    list[str] | None, typer.Option("--symbol", help="BTCUSDT, BTC/USDT, BTC/USDT:USDT; may be given again.")
]
SinceOption = Annotated[str | None, typer.Option("--since", help="How far back, such as 90d.")]
StartOption = Annotated[str | None, typer.Option("--start", help="From this time, UTC.")]
EndOption = Annotated[str | None, typer.Option("--end", help="Up to this time, UTC.")]
ExcludeOption = Annotated[
    list[str] | None,
    typer.Option("--exclude", help="START:END to cut out, flat before; may be given again."),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Refuse a result with a trade over missing candles.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(backtest)


def backtest(
    ctx: typer.Context,
    strategy: StrategyArgument,
    data: DataOption = None,
    unit: UnitOption = None,
    symbol: SymbolOption = None,
    since: SinceOption = None,
    start: StartOption = None,
    end: EndOption = None,
    param: ParamOption = None,
    params: ParamsFile = None,
    exclude: ExcludeOption = None,
    strict: StrictOption = False,
    size: Annotated[str | None, typer.Option("--size", help="0.01, 500 USDT or 1%.")] = None,
    fill: Annotated[str | None, typer.Option("--fill", help="next_open or close.")] = None,
    fee: Annotated[str | None, typer.Option("--fee", help="Of notional, taking, such as 0.04%.")] = None,
    slippage: Annotated[int | None, typer.Option("--slippage", help="Ticks.")] = None,
    funding: Annotated[Path | None, typer.Option("--funding", help="A file of recorded rates.")] = None,
    wallet: Annotated[str | None, typer.Option("--wallet", help="First balance.")] = None,
    directory: Annotated[Path | None, typer.Option("--out", help="Where runs are kept.")] = None,
) -> None:
    """Run a strategy over history, event by event, and keep the run."""
    from qmtl.runtime.io.run_page import write_page

    invocation: Invocation = ctx.obj
    began_s = time.perf_counter()
    settings = invocation.load(
        {
            "--fill": ("backtest.fill", fill),
            "--fee": ("backtest.fee", fee),
            "--slippage": ("backtest.slippage_ticks", slippage),
            "--funding": ("backtest.funding", funding),
            "--wallet": ("backtest.wallet", wallet),
            "--out": ("backtest.directory", directory),
            **size_option(size),
        }
    ).settings
    source, chosen = open_strategy(strategy, param, params)
    market = Market(tuple(symbol or ()), tuple(data or ()), unit, (since, start, end), tuple(exclude or ()))
    job = make_job(invocation, settings, source, chosen, market)
    result = run_job(invocation, source, job)
    over = result.trades_over_holes
    if strict and over:
        counted = f"{len(over)} trade{'s' if len(over) > 1 else ''} over missing candles"
        raise BadInputError(f"{counted}: {describe_gaps(result)}")
    folder = keep_run(invocation, result, source, settings.backtest.directory)
    lines = [f"{', '.join(one.canonical for one in job.instruments.values())} {job.plan.interval}"] * bool(
        symbol
    )
    lines += [dump_data(result, time.perf_counter() - began_s), dump_result(result)]
    lines += dump_bound(result) + [describe_holes(result)] * bool(result.holes)
    page = str(write_page(folder))
    lines.append(f"report: {page}")
    body = {
        "run": str(folder),
        "report": page,
        "strategy": source.reference,
        "params": job.strategy.chosen,
        "symbols": list(job.histories),
        "canonical": [one.canonical for one in job.instruments.values()],
        "fingerprints": {name: history.fingerprint for name, history in job.histories.items()},
        "coverage": {name: history.coverage for name, history in job.histories.items()},
        "holes": [hole._asdict() for hole in result.holes],
        "trades_over_holes": len(over),
        "figures": result.figures(),
        "trades_hash": result.trades_hash(),
        "intrabar_assumed": result.other_bound is not None,
    }
    invocation.answer(body, "" if invocation.is_quiet else "\n".join(lines))


class Market(NamedTuple):
    """The options that say which candles: symbols, files and their unit, --since, --start, --end, cuts."""

    symbols: tuple[str, ...] = ()
    data: tuple[Path, ...] = ()
    unit: str | None = None
    span: tuple[str | None, str | None, str | None] = (None, None, None)
    excluded: tuple[str, ...] = ()


def make_job(
    invocation: Invocation,
    settings: "Settings",
    source: "StrategySource",
    strategy: "Strategy",
    market: Market,
) -> "BacktestJob":
    """Put a run together; every fault of the input is one clear error, and nothing has run yet."""
    from qmtl.runtime.sdk.backtest_job import BacktestJob
    from qmtl.runtime.sdk.strategy_file import naming_faults
    from qmtl.runtime.sdk.trade_settings import find_plan, find_terms
    from qmtl.runtime.sdk.warmup import find_warmup

    with naming_faults(source):
        plan = find_plan(settings, strategy, market.symbols)
        strategy.face()
    cuts = [parse_cut(text) for text in market.excluded]
    histories = load_market(invocation, settings, plan, market)
    check_cuts(histories, cuts)
    with naming_faults(source):
        warmup = find_warmup(source, strategy, plan.markets) if strategy.face() == "signals" else 0
    return BacktestJob(
        strategy=strategy,
        plan=plan,
        histories=histories,
        instruments={name: list_market(name, history) for name, history in histories.items()},
        terms=find_terms(settings),
        warmup=warmup,
        excluded=cuts,
    )


def load_market(
    invocation: Invocation, settings: "Settings", plan: "TradePlan", market: Market
) -> "dict[str, MarketHistory]":
    """Return the candles of each symbol: of --data, else of the store, fetched where a range asks for it."""
    from qmtl.runtime.io.history_file import UNITS
    from qmtl.runtime.io.market_file import load_funding, load_history

    data, unit = market.data, market.unit
    if unit is not None and unit not in UNITS:
        raise BadInputError(f"--unit: found {unit!r}, expected {', '.join(UNITS)}")
    if data and any(market.span):
        raise BadInputError("--data brings the range of its file; leave --since, --start and --end out")
    if data and len(data) != len(plan.markets):
        wanted = f"{len(plan.markets)} for {', '.join(plan.markets)}"
        raise BadInputError(f"--data: {len(data)} files, expected {wanted}")
    try:
        funding = load_funding(settings.backtest.funding, settings.backtest.funding_marks)
        if not data:
            return load_stored(invocation, settings, plan, market.span, funding)
        return {
            symbol: load_history(path, symbol=symbol, interval=plan.interval, unit=unit, funding=funding)
            for symbol, path in zip(plan.markets, data, strict=True)
        }
    except FileNotFoundError as error:
        raise BadInputError(str(error)) from None


def check_cuts(histories: "Mapping[str, MarketHistory]", cuts: Sequence[tuple[int, int]]) -> None:
    """Refuse cuts that leave a symbol no candles, or not as many stretches as another."""
    left = {symbol: len(history.without(cuts)) for symbol, history in histories.items()}
    for symbol, stretches in left.items():
        if not stretches:
            raise BadInputError(f"--exclude: no candle of {symbol} is left")
    if len(set(left.values())) > 1:
        told = ", ".join(f"{symbol} {stretches}" for symbol, stretches in left.items())
        raise BadInputError(f"--exclude: symbols are left with different numbers of stretches ({told})")


def list_market(symbol: str, history: "MarketHistory") -> "Instrument":
    """Return the contract of a symbol, unknown steps and limits from its candles."""
    from qmtl.core.instrument import list_instrument

    bars = history.bars
    decimals = _decimals(bars.close[:500]), _decimals(bars.volume[:500])
    with naming_symbol(symbol):
        return list_instrument(symbol, *decimals, lowest=float(bars.close.min()))


@contextmanager
def naming_symbol(symbol: str) -> Iterator[None]:
    """Turn a symbol that cannot be told apart into bad input."""
    try:
        yield
    except ValueError as error:
        raise BadInputError(f"--symbol {symbol}: {error}") from None


def _decimals(values: Any) -> int:
    # A float below 0.0001 is written with an exponent: its decimals are not what stands behind the point.
    steps = [int(Decimal(repr(value)).normalize().as_tuple().exponent) for value in values.tolist()]
    return min(8, max(0, -min(steps, default=0)))


def parse_cut(text: str) -> tuple[int, int]:
    """Return the range [start, end) in ms of START:END, dates or times in UTC."""
    from datetime import UTC, datetime

    def moment(part: str) -> int | None:
        try:
            found = datetime.fromisoformat(part)
        except ValueError:
            return None
        return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)

    # Times hold colons themselves: the one between the two is where both sides are times.
    places = [at for at, letter in enumerate(text) if letter == ":"]
    for at in places:
        start, end = moment(text[:at]), moment(text[at + 1 :])
        if start is not None and end is not None:
            if start >= end:
                raise BadInputError(f"--exclude {text}: the start is not before the end")
            return start, end
    raise BadInputError(f"--exclude {text}: expected START:END, such as 2025-05-10:2025-05-12")


def run_job(invocation: Invocation, source: "StrategySource", job: "BacktestJob") -> "BacktestResult":
    """Run with a progress bar; what the strategy's code raises is named with file and line."""
    from qmtl.runtime.sdk.backtest_run import run_backtest
    from qmtl.runtime.sdk.strategy_file import naming_faults

    with naming_faults(source), progress_of(invocation, f"backtest {source.cls.__name__}") as tell:
        return run_backtest(job, tell)


def keep_run(
    invocation: Invocation, result: "BacktestResult", source: "StrategySource", directory: Path
) -> Path:
    """Write the run and return its folder."""
    from qmtl.runtime.io.run_record import write_run

    try:
        return write_run(result, source, directory, command=("qmtl", *invocation.arguments))
    except OSError as error:
        raise BadInputError(f"{directory}: the run cannot be written there: {error.strerror}") from None


@contextmanager
def progress_of(invocation: Invocation, title: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show a bar with rate and time left on a terminal; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if invocation.is_json or invocation.is_quiet or not console.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} bars · {task.fields[rate]} · left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        # Unseen until the number of bars is told: an unknown one cannot be written.
        task = bar.add_task(title, total=None, visible=False, rate="–/s")

        def tell(done: int, total: int) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task, completed=done, total=total, visible=True, rate=f"{speed:,.0f}/s" if speed else "–/s"
            )

        yield tell
