"""`qmtl reproduce`: a kept run once more, from what its record says, and what differs."""

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
    rates = next(iter(_given(record, "--funding")), None)
    if rates is not None and not Path(rates).is_file():
        raise BadInputError(f"{rates}: the run's funding rates are not there")
    return invocation.load({"--funding": ("backtest.funding", rates)}).settings


def _given(record: dict[str, Any], option: str) -> list[str]:
    """Return the values of an option in the command that made a run."""
    words = record["command"]
    apart = [word for before, word in pairwise(words) if before == option]
    return apart + [word.removeprefix(f"{option}=") for word in words if word.startswith(f"{option}=")]


def find_market(record: dict[str, Any], data: tuple[Path, ...]) -> Market:
    """Return where a run's candles are: files given, those of its command, else its range of the store."""
    files = data or tuple(Path(word) for word in _given(record, "--data"))
    unit = next(iter(_given(record, "--unit")), None)
    missing = [str(path) for path in files if not path.is_file()]
    if missing:
        raise BadInputError(f"{missing[0]}: the run's candles are not there; name them with --data")
    if files:
        return Market(data=files, unit=unit)
    first = record["data"][0]
    return Market(span=(None, _moment(first["start_ms"]), _moment(first["end_ms"])))


def _moment(ts_ms: int) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _short(fingerprint: str) -> str:
    return f"{fingerprint[:19]}…" if ":" in fingerprint else fingerprint


def find_differences(record: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each thing that went into the run and is another now."""
    from qmtl.runtime.io.run_record import library_versions

    found = []
    then_sha, now_sha = record["strategy"]["sha256"], now["strategy"]["sha256"]
    if then_sha != now_sha:
        found.append(f"strategy: sha256 {then_sha[:12]}…, now {now_sha[:12]}…")
    for one in record["data"]:
        print_now = now["data"].get(one["symbol"], "none")
        if one["fingerprint"] != print_now:
            found.append(f"data {one['symbol']}: {_short(one['fingerprint'])}, now {_short(print_now)}")
    for symbol, then in record.get("funding", {}).items():
        print_now = now["funding"].get(symbol, "none")
        if then != print_now:
            found.append(f"funding rates {symbol}: {_short(then)}, now {_short(print_now)}")
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
