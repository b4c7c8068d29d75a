"""`qmtl sweep`: many parameter sets, judged where they were not chosen, with how much of the best is luck."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast

import typer

from qmtl import __version__
from qmtl.cli.backtest import (
    DataOption,
    EndOption,
    ExcludeOption,
    Market,
    SinceOption,
    StartOption,
    StrictOption,
    SymbolOption,
    UnitOption,
    list_market,
    load_market,
    parse_cut,
)
from qmtl.cli.invocation import BadInputError, Invocation, refusing
from qmtl.cli.strategy_options import ParamsFile, StrategyArgument, read_params, size_option
from qmtl.cli.sweep_progress import progress_of, spinner_of
from qmtl.cli.sweep_space import Space, parse_space
from qmtl.cli.sweep_text import (
    describe_data,
    describe_failures,
    describe_over_holes,
    describe_sweep,
    draw_map,
    draw_table,
    dump_params_file,
    dump_verdict,
)

if TYPE_CHECKING:
    from qmtl.engine.crew import Crew, Workload
    from qmtl.engine.splits import Scheme
    from qmtl.engine.statistics import Period
    from qmtl.engine.sweep import Row, Sampler, SweepFile
    from qmtl.engine.sweep_verdict import Verdict
    from qmtl.runtime.sdk.sweep_job import SweepJob
    from qmtl.settings import Settings

SweptOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", "-p", help="NAME, NAME=LOW:HIGH:STEP, NAME=A,B,C or NAME=VALUE; may be repeated."
    ),
]
EngineOption = Annotated[str | None, typer.Option("--engine", help="local (processes) or ray.")]
SamplerOption = Annotated[str, typer.Option("--sampler", help="grid (every set) or optuna.")]
SchemeOption = Annotated[str, typer.Option("--scheme", help="rolling or anchored training.")]
PARAMS = Path("params")
ROWS, VERDICT, COLUMNS = "sweep.jsonl", "sweep.json", "columns"


class Search(NamedTuple):
    """The options that say how sets are found and where they are evaluated."""

    sampler: str
    trials: int
    seed: int
    engine: str
    workers: int
    address: str | None


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sweep)


def sweep(
    ctx: typer.Context,
    strategy: StrategyArgument,
    param: SweptOption = None,
    params: ParamsFile = None,
    splits: Annotated[int, typer.Option("--splits", help="Walk-forward splits.")] = 6,
    scheme: SchemeOption = "rolling",
    train: Annotated[float, typer.Option("--train", help="Length of a training, in tests.")] = 3.0,
    purge: Annotated[int, typer.Option("--purge", help="Bars left out before each test.")] = 0,
    embargo: Annotated[int, typer.Option("--embargo", help="Bars of each test left out at its start.")] = 0,
    sampler: SamplerOption = "grid",
    trials: Annotated[int, typer.Option("--trials", help="Sets that optuna tries.")] = 100,
    seed: Annotated[int | None, typer.Option("--seed", help="Of optuna and of the intervals.")] = None,
    engine: EngineOption = None,
    workers: Annotated[int | None, typer.Option("--workers", help="How many at once.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Of a running Ray cluster.")] = None,
    data: DataOption = None,
    unit: UnitOption = None,
    symbol: SymbolOption = None,
    since: SinceOption = None,
    start: StartOption = None,
    end: EndOption = None,
    exclude: ExcludeOption = None,
    strict: StrictOption = False,
    size: Annotated[str | None, typer.Option("--size", help="0.01, 500 USDT or 1%.")] = None,
    fill: Annotated[str | None, typer.Option("--fill", help="next_open or close.")] = None,
    fee: Annotated[str | None, typer.Option("--fee", help="Of notional, taking, such as 0.04%.")] = None,
    slippage: Annotated[int | None, typer.Option("--slippage", help="Ticks.")] = None,
    funding: Annotated[Path | None, typer.Option("--funding", help="A file of recorded rates.")] = None,
    wallet: Annotated[str | None, typer.Option("--wallet", help="First balance.")] = None,
    directory: Annotated[Path | None, typer.Option("--out", help="Where sweeps are kept.")] = None,
) -> None:
    """Try many parameter sets walking forward; a killed sweep goes on when it is run again."""
    invocation: Invocation = ctx.obj
    for name, value, allowed in (
        ("--engine", engine or "local", ("local", "ray")),
        ("--sampler", sampler, ("grid", "optuna")),
        ("--scheme", scheme, ("rolling", "anchored")),
    ):
        if value not in allowed:
            raise BadInputError(f"{name}: found {value!r}, expected {' or '.join(allowed)}")
    if trials < 1:
        raise BadInputError(f"--trials: found {trials}, expected a number >= 1")
    settings = invocation.load(
        {
            "--fill": ("backtest.fill", fill),
            "--fee": ("backtest.fee", fee),
            "--slippage": ("backtest.slippage_ticks", slippage),
            "--funding": ("backtest.funding", funding),
            "--wallet": ("backtest.wallet", wallet),
            "--out": ("backtest.directory", directory),
            "--seed": ("backtest.seed", seed),
            "--engine": ("sweep.engine", engine),
            "--workers": ("sweep.workers", workers),
            "--address": ("sweep.address", address),
            **size_option(size),
        }
    ).settings
    market = Market(tuple(symbol or ()), tuple(data or ()), unit, (since, start, end), tuple(exclude or ()))
    walk = (splits, cast("Scheme", scheme), train, purge, embargo)
    job, space = make_job(invocation, settings, strategy, (param or (), params), market, walk)
    crew = settings.sweep
    count = crew.workers or os.cpu_count() or 1
    search = Search(sampler, trials, settings.backtest.seed, crew.engine, count, crew.address)
    answer_sweep(invocation, job, space, search, settings.backtest.directory, strict=strict)


def make_job(
    invocation: Invocation,
    settings: "Settings",
    reference: str,
    given: tuple[Sequence[str], Path | None],
    market: Market,
    walk: "tuple[int, Scheme, float, int, int]",
) -> "tuple[SweepJob, Space]":
    """Put a sweep together; every fault of the input is one clear error, and nothing has run yet."""
    from qmtl.engine.splits import SplitError, walk_forward
    from qmtl.runtime.sdk.strategy import make_strategy
    from qmtl.runtime.sdk.strategy_file import load_source, naming_faults
    from qmtl.runtime.sdk.sweep_job import SweepJob, check_face, find_conditions
    from qmtl.runtime.sdk.trade_settings import find_plan, find_terms

    source = load_source(reference)
    with naming_faults(source):
        check_face(source)
        space, fixed = parse_space(source.cls, given[0])
        kept = {name: value for name, value in read_params(given[1]).items() if name not in space}
        strategy = make_strategy(source.cls, {**kept, **fixed})
        plan = find_plan(settings, strategy, market.symbols)
    if len(plan.markets) > 1:
        raise BadInputError(f"--symbol: a sweep trades one symbol, found {', '.join(plan.markets)}")
    terms = find_terms(settings)
    with refusing(ValueError):
        find_conditions(plan, terms)
    histories = load_market(invocation, settings, plan, market)
    symbol = plan.markets[0]
    cuts = [parse_cut(text) for text in market.excluded]
    if cuts and plan.volatility_target is not None:
        raise BadInputError(
            "--exclude: a volatility target would look over the cut; backtest one set at a time"
        )
    left = histories[symbol].without(cuts)
    splits, scheme, train, purge, embargo = walk
    with refusing(SplitError):
        chosen = walk_forward(
            sum(len(part.bars) for part in left),
            splits,
            scheme=scheme,
            train_share=train,
            purge=purge,
            embargo=embargo,
        )
    job = SweepJob(
        source=source,
        fixed={name: value for name, value in strategy.chosen.items() if name not in space},
        plan=plan,
        terms=terms,
        histories=histories,
        instrument=list_market(symbol, histories[symbol]),
        splits=chosen,
        excluded=cuts,
    )
    return job, space


def answer_sweep(
    invocation: Invocation,
    job: "SweepJob",
    space: Space,
    search: Search,
    directory: Path,
    *,
    strict: bool = False,
) -> None:
    """Run what is not done yet, judge all of it, and say so; `strict` refuses trades over a hole."""
    from qmtl.engine.sweep import SweepFile
    from qmtl.engine.sweep_verdict import judge

    began_s = time.perf_counter()
    identity = {
        **job.identify(),
        "space": space,
        "sampler": search.sampler,
        "seed": search.seed,
        "version": __version__,
    }
    folder = directory / digest(identity)
    period = job.period
    with refusing(ValueError, OSError), closing(SweepFile(folder / ROWS, identity)) as results:
        if results.rows:
            invocation.note(f"going on from {len(results.rows):,} sets in {folder / ROWS}")
        work(invocation, job, space, search, results, folder)
        # Of sets that did equally well the first counts: not whichever worker was quicker.
        rows = sorted(results.rows, key=lambda row: [row["params"][name] for name in space])
    verdict = judge(rows, period, search.seed)
    if verdict.sets and verdict.failed == verdict.sets:
        raise BadInputError(f"all {verdict.sets:,} sets failed, the first with {rows[0]['error']}")
    over = describe_over_holes(rows, job)
    if strict and over:
        raise BadInputError(over)
    saved = save(verdict, job, folder)
    body = dump_body(verdict, job, space, rows, period, folder, saved)
    (folder / VERDICT).write_text(json.dumps(body, indent=2, default=str) + "\n", "utf-8")
    lines = [
        describe_data(job),
        *[f"holes: {over}"] * bool(over),
        *describe_failures(rows),
        *draw_map(rows, space, period),
    ]
    lines += [*draw_table(verdict), *describe_sweep(verdict)]
    lines.append(dump_verdict(verdict, time.perf_counter() - began_s))
    lines += [f"saved {saved}"] if saved else []
    invocation.answer(body, "" if invocation.is_quiet else "\n".join(lines))


def digest(identity: Mapping[str, Any]) -> str:
    """Return the name of a sweep: eight hexadecimal digits of what it is made of."""
    import hashlib

    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:8]


def work(
    invocation: Invocation, job: "SweepJob", space: Space, search: Search, results: "SweepFile", folder: Path
) -> None:
    """Evaluate every set that has no row yet, with progress on a terminal."""
    from qmtl.engine.sweep import run_sweep

    sampler = make_sampler(space, search, results.rows)
    left = sampler.total - len(results.rows)
    if left <= 0:
        return
    workload = job.write(folder / COLUMNS)
    stamp = {
        "data": job.histories[job.symbol].fingerprint,
        "sha256": job.source.sha256,
        "seed": search.seed,
        "version": __version__,
    }
    title = f"sweep {job.source.cls.__name__}"
    try:
        with (
            closing(start_crew(invocation, workload, search, left)) as crew,
            progress_of(invocation, title, len(results.rows), sampler) as tell,
        ):
            for _ in run_sweep(sampler, crew, results, stamp):
                tell()
    except KeyboardInterrupt:
        invocation.note(f"finished sets are kept in {results.path}; the same command goes on from there")
        raise


def make_sampler(space: Space, search: Search, done: "Sequence[Row]") -> "Sampler":
    """Return the source of sets."""
    from qmtl.engine.optuna_sampler import OptunaSampler
    from qmtl.engine.sweep import GridSampler, build_grid
    from qmtl.engine.sweep_verdict import train_ratio

    if search.sampler == "grid":
        return GridSampler(build_grid(space), done)
    return OptunaSampler(space, search.trials, search.seed, train_ratio, done)


def start_crew(invocation: Invocation, workload: "Workload", search: Search, left: int) -> "Crew":
    """Start the workers, the kernel being compiled first: once for all of them."""
    from qmtl.engine.crew import CrewError, InlineCrew, ProcessCrew, RayCrew
    from qmtl.engine.kernel import compile_kernel

    size = max(1, min(search.workers, left))
    with spinner_of(invocation, "compiling the kernel (some seconds, the first time on this machine)"):
        compile_kernel()
    with spinner_of(invocation, f"starting {size} worker{'s' if size > 1 else ''}"), refusing(CrewError):
        if search.engine == "ray":
            return RayCrew(workload, size, search.address)
        return ProcessCrew(workload, size) if size > 1 else InlineCrew(workload)


def save(verdict: "Verdict", job: "SweepJob", folder: Path) -> Path | None:
    """Write the best set where --params finds it; nothing where no set traded."""
    if verdict.best is None:
        return None
    path = PARAMS / f"{Path(job.source.label).stem}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    params = {**job.fixed, **verdict.best}
    ordered = {name: params[name] for name in job.source.cls.params() if name in params}
    print_of_data = job.histories[job.symbol].fingerprint
    text = dump_params_file(verdict, ordered, job.source.label, job.source.sha256, print_of_data, str(folder))
    path.write_text(text, "utf-8")
    return path


def dump_body(
    verdict: "Verdict",
    job: "SweepJob",
    space: Space,
    rows: "Sequence[Row]",
    period: "Period",
    folder: Path,
    saved: Path | None,
) -> dict[str, Any]:
    """Return everything for --json and for the report: verdict, splits, the ratio of every set."""
    from qmtl.engine.sweep import without_nan
    from qmtl.engine.sweep_verdict import test_ratio, train_ratio

    body = {
        **verdict._asdict(),
        "interval": list(verdict.interval),
        "choices": [choice._asdict() for choice in verdict.choices],
        "words": verdict.words,
        "period": period.name,
        "sweep": str(folder),
        "saved": None if saved is None else str(saved),
        "strategy": job.source.reference,
        "symbol": job.symbol,
        "canonical": job.instrument.canonical,
        "fingerprints": {symbol: one.fingerprint for symbol, one in job.histories.items()},
        "coverage": {symbol: one.coverage for symbol, one in job.histories.items()},
        "holes": [hole._asdict() for one in job.histories.values() for hole in one.holes],
        "excluded": [list(cut) for cut in job.excluded],
        "fixed": dict(job.fixed),
        "space": space,
        "map": [
            {"params": row["params"], "train": train_ratio(row), "test": test_ratio(row, period)}
            for row in rows
            if "result" in row
        ],
        "errors": [{"params": row["params"], "error": row["error"]} for row in rows if "error" in row],
    }
    return cast("dict[str, Any]", without_nan(body))
