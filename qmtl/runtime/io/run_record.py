"""A run on disk: `run.json`, `trades.parquet`, `equity.parquet`; written whole or not at all."""

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from qmtl import __version__
from qmtl.runtime.sdk.backtest_result import BacktestResult
from qmtl.runtime.sdk.market_history import MarketHistory
from qmtl.runtime.sdk.strategy_file import StrategySource

FORMAT = 1
RUN, TRADES, EQUITY = "run.json", "trades.parquet", "equity.parquet"
_LIBRARIES = ("numpy", "polars", "numba")
_IDENTITY = ("format", "params", "funding", "plan", "terms", "warmup", "excluded", "instruments")
"""What `identify` gives and `run.json` holds in the same form."""


class RunNotFoundError(ValueError):
    """No run of that name or place; the message says where was looked."""


def identify(result: BacktestResult, source: StrategySource) -> dict[str, Any]:
    """Return what decides a run's result, as plain data: equal runs have equal identities."""
    job = result.job
    return {
        "format": FORMAT,
        "strategy": {"class": source.cls.__name__, "sha256": source.sha256},
        "params": job.strategy.chosen,
        "data": {symbol: history.fingerprint for symbol, history in job.histories.items()},
        "funding": {symbol: history.funding_print for symbol, history in job.histories.items()},
        "plan": job.plan.dump(),
        "terms": _plain(job.terms.dump()),
        "warmup": job.warmup,
        "excluded": [list(cut) for cut in job.excluded],
        "instruments": {symbol: _plain(one) for symbol, one in job.instruments.items()},
    }


def run_id(result: BacktestResult, source: StrategySource) -> str:
    """Return the name of a run: eight hexadecimal digits of its identity and the program's version."""
    return _digest(identify(result, source), __version__)


def is_intact(record: Mapping[str, Any]) -> bool:
    """Tell whether what went into a run is still what its `run.json` was written with."""
    identity = {name: record[name] for name in _IDENTITY if name in record}
    identity["strategy"] = {name: record["strategy"][name] for name in ("class", "sha256")}
    identity["data"] = {one["symbol"]: one["fingerprint"] for one in record["data"]}
    return bool(_digest(identity, record["versions"]["qmtl"]) == record["id"])


def _digest(identity: Mapping[str, Any], program: str) -> str:
    body = json.dumps([identity, program], sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:8]


def write_run(
    result: BacktestResult, source: StrategySource, directory: Path, *, command: Sequence[str] = ()
) -> Path:
    """Write a run below `directory` and return its folder; an equal run is replaced."""
    folder = directory / run_id(result, source)
    beside = directory / f".{folder.name}.{os.getpid()}"
    beside.mkdir(parents=True, exist_ok=True)
    try:
        body = describe(result, source, command)
        (beside / RUN).write_text(json.dumps(body, indent=2, ensure_ascii=False) + "\n", "utf-8")
        _trades(result).write_parquet(beside / TRADES)
        _equity(result).write_parquet(beside / EQUITY)
        if folder.exists():
            shutil.rmtree(folder)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return folder


def describe(result: BacktestResult, source: StrategySource, command: Sequence[str] = ()) -> dict[str, Any]:
    """Return everything `run.json` holds."""
    job = result.job
    body = {
        "id": run_id(result, source),
        **identify(result, source),
        "strategy": {
            "file": str(source.path),
            "label": source.label,
            "reference": source.reference,
            "class": source.cls.__name__,
            "sha256": source.sha256,
        },
        "data": [_describe_data(symbol, history) for symbol, history in job.histories.items()],
        "holes": [hole._asdict() for hole in result.holes],
        "trades_over_holes": len(result.trades_over_holes),
        "sizing": job.plan.describe(),
        "costs": job.terms.describe(),
        "fill_model": job.terms.fill,
        "path": str(result.terms.path),
        "seed": job.terms.seed,
        "figures": result.figures(),
        "trades_hash": result.trades_hash(),
        "versions": library_versions(),
        "command": list(command),
    }
    other = result.other_bound
    if other is not None:
        # A candle does not tell its path: both ways through it bound what could have been.
        body["other_path"] = {"path": str(other.terms.path), "figures": other.figures()}
    return body


def read_run(place: Path) -> dict[str, Any]:
    """Return the `run.json` of a run's folder; RunNotFoundError when there is none."""
    path = place / RUN
    if not path.is_file():
        raise RunNotFoundError(f"{place}: no run there ({RUN} is missing)")
    body: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return body


def find_run(name: str, directory: Path) -> Path:
    """Return the folder of a run named by its place, its id, or the beginning of its id."""
    if (Path(name) / RUN).is_file():
        return Path(name)
    found = sorted(path.parent for path in directory.glob(f"{name}*/{RUN}"))
    if len(found) == 1:
        return found[0]
    if not found and any(directory.glob(f"{name}*/sweep.jsonl")):
        raise RunNotFoundError(f"{name}: a sweep below {directory}; this takes a run of qmtl backtest")
    several = f"; {', '.join(path.name for path in found)} begin so" if found else ""
    raise RunNotFoundError(f"run {name}: not found below {directory}{several}")


def _describe_data(symbol: str, history: MarketHistory) -> dict[str, Any]:
    return {
        "symbol": symbol,
        "interval": history.bars.interval,
        "source": history.source,
        "node_id": history.node_id,
        "start_ms": history.start_ms,
        "end_ms": history.end_ms,
        "rows": len(history.bars),
        "expected": history.expected,
        "coverage": history.coverage,
        "holes": [hole._asdict() for hole in history.holes],
        "fingerprint": history.fingerprint,
        "has_funding": history.funding is not None,
    }


def _trades(result: BacktestResult) -> Any:
    import polars as pl

    trades = [*result.trades, *result.open_trades]
    schema = {
        "symbol": pl.String,
        "entry_ts": pl.Int64,
        "exit_ts": pl.Int64,
        "side": pl.String,
        "quantity": pl.Float64,
        "entry": pl.Float64,
        "exit": pl.Float64,
        "fee": pl.Float64,
        "funding": pl.Float64,
        "pnl": pl.Float64,
        "why_in": pl.String,
        "why_out": pl.String,
        "bars": pl.Int64,
        "over_hole": pl.Boolean,
    }
    columns = {}
    for name, kind in schema.items():
        values = [getattr(trade, name) for trade in trades]
        is_float = kind == pl.Float64
        columns[name] = [float(v) if is_float and v is not None else v for v in values]
    return pl.DataFrame(columns, schema=schema)


def _equity(result: BacktestResult) -> Any:
    import polars as pl

    curve = result.curve
    first, *others = curve.positions
    columns: dict[str, Any] = {
        "ts": curve.open_ms,
        "equity": curve.equity,
        "position": curve.positions[first],
        "close": curve.closes[first],
    }
    if not others:
        bars = result.job.histories[first].bars
        rows = np.searchsorted(bars.open_ms, curve.open_ms)
        columns |= {name: getattr(bars, name)[rows] for name in ("open", "high", "low", "volume")}
    for symbol in others:
        columns[f"position_{symbol}"] = curve.positions[symbol]
        columns[f"close_{symbol}"] = curve.closes[symbol]
    for name, line in result.plots.items():
        if len(line) == len(curve.open_ms):
            columns[f"plot_{name}"] = line
    return pl.DataFrame(columns)


def library_versions() -> dict[str, str]:
    """Return the versions a result can hang on."""
    found = {"qmtl": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(value: Any) -> Any:
    import msgspec

    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    return msgspec.to_builtins(value)
