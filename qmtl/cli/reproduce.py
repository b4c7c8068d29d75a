"""`qmtl reproduce`: a kept run once more, from what its record says, and what differs."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.backtest import DataOption, Market, list_market, load_market, run_job
from qmtl.cli.invocation import DIVERGED, DONE, BadInputError, Invocation

if TYPE_CHECKING:
    from qmtl.runtime.sdk.backtest_job import BacktestJob
    from qmtl.runtime.sdk.strategy_file import StrategySource
    from qmtl.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(reproduce)


def reproduce(
    ctx: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, id, or how its id begins.")],
    data: DataOption = None,
    directory: Annotated[Path | None, typer.Option("--out", help="Where runs are kept.")] = None,
) -> int:
    """Run a kept run again and compare its trades; exit 3 names what differs."""
    from qmtl.runtime.io.run_record import find_run, identify, read_run

    invocation: Invocation = ctx.obj
    settings = invocation.load({"--out": ("backtest.directory", directory)}).settings
    record = read_run(find_run(run, settings.backtest.directory))
    source, job = rebuild(invocation, record, tuple(data or ()))
    result = run_job(invocation, source, job)
    is_same = result.trades_hash() == record["trades_hash"]
    different = find_differences(record, identify(result, source))
    count = len(result.trades)
    word = f"{count:,} trades equal"
    if not is_same:
        word = f"trades differ: {record['figures']['trades']:,} then, {count:,} now"
    lines = [f"{word} · sha256:{result.trades_hash()[:12]}…", *different]
    body = {
        "run": record["id"],
        "is_same": is_same,
        "trades_hash": result.trades_hash(),
        "different": different,
        "figures": result.figures(),
    }
    invocation.answer(body, "\n".join(lines))
    return DONE if is_same else DIVERGED


def rebuild(
    invocation: Invocation, record: dict[str, Any], data: tuple[Path, ...]
) -> "tuple[StrategySource, BacktestJob]":
    """Return the job a record tells of: its own plan, terms, warm-up and cuts, whatever qmtl.yml says now."""
    import msgspec

    from qmtl.runtime.sdk.backtest_job import BacktestJob
    from qmtl.runtime.sdk.backtest_terms import BacktestTerms
    from qmtl.runtime.sdk.strategy import make_strategy
    from qmtl.runtime.sdk.strategy_file import load_source, naming_faults
    from qmtl.runtime.sdk.trade_plan import parse_plan

    source = load_source(record["strategy"]["reference"])
    with naming_faults(source):
        strategy = make_strategy(source.cls, record["params"])
    plan = parse_plan(record["plan"])
    market = find_market(record, data)
    histories = load_market(invocation, find_settings(invocation, record), plan, market)
    terms = {name: value for name, value in record["terms"].items() if name != "assumptions"}
    job = BacktestJob(
        strategy=strategy,
        plan=plan,
        histories=histories,
        instruments={name: list_market(name, history) for name, history in histories.items()},
        terms=msgspec.convert(terms, BacktestTerms, strict=False),
        warmup=record["warmup"],
        excluded=[(start, end) for start, end in record["excluded"]],
    )
    return source, job


def find_settings(invocation: Invocation, record: dict[str, Any]) -> "Settings":
    """Return the settings, with the funding rates that the run's command named."""
    rates = find_words(record["command"], "--funding")
    if rates and not Path(rates[-1]).is_file():
        raise BadInputError(f"{rates[-1]}: the run's funding rates are not there")
    given = {"--funding": ("backtest.funding", Path(rates[-1]))} if rates else {}
    return invocation.load(given).settings


def find_market(record: dict[str, Any], data: tuple[Path, ...]) -> Market:
    """Return where a run's candles are: files given, those of its command, else its range of the store."""
    words = record["command"]
    units = find_words(words, "--unit")
    files = data or tuple(Path(word) for word in find_words(words, "--data"))
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BadInputError(f"{missing[0]}: the run's candles are not there; name them with --data")
    if files:
        return Market(data=files, unit=units[-1] if units else None)
    first = record["data"][0]
    return Market(span=(None, _moment(first["start_ms"]), _moment(first["end_ms"])))


def find_words(command: Sequence[str], option: str) -> list[str]:
    """Return what a command gave for an option, written either way, in order."""
    found = []
    for before, word in pairwise(("", *command)):
        if before == option:
            found.append(word)
        elif word.startswith(f"{option}="):
            found.append(word.partition("=")[2])
    return found


def _moment(ts_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def find_differences(record: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each thing that went into the run and is another now."""
    from qmtl.runtime.io.run_record import is_intact, library_versions

    found = [] if is_intact(record) else ["run.json: what went into the run was changed after it was written"]
    then_sha, now_sha = record["strategy"]["sha256"], now["strategy"]["sha256"]
    if then_sha != now_sha:
        found.append(f"strategy: sha256 {then_sha[:12]}…, now {now_sha[:12]}…")
    for one in record["data"]:
        print_now = now["data"].get(one["symbol"], "none")
        if one["fingerprint"] != print_now:
            found.append(f"data {one['symbol']}: {one['fingerprint'][:19]}…, now {print_now[:19]}…")
    for symbol, rates in record.get("funding", now["funding"]).items():
        rates_now = now["funding"].get(symbol)
        if rates != rates_now:
            found.append(f"funding {symbol}: {_short(rates)}, now {_short(rates_now)}")
    for symbol, then in record["instruments"].items():
        if then != now["instruments"].get(symbol):
            found.append(f"instrument {symbol}: {then}, now {now['instruments'].get(symbol)}")
    versions = library_versions()
    found += [
        f"version of {name}: {then}, now {versions.get(name, 'none')}"
        for name, then in record["versions"].items()
        if versions.get(name) != then
    ]
    return found


def _short(rates: str | None) -> str:
    return "no rates" if rates is None else f"{rates[:19]}…"
