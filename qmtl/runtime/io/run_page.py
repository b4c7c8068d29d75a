"""The page of a run on disk: read from its folder, written as `report.html` into it, drawn as a picture."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qmtl.engine.tearsheet import render_tearsheet
from qmtl.runtime.io.run_record import EQUITY, TRADES, RunNotFoundError, read_run

PAGE, PICTURE = "report.html", "report.png"
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WIDTH = 1_200
_HEIGHT = re.compile(r'data-height="(\d+)"')
_BROWSER_S = 60.0


class BrowserError(RuntimeError):
    """A picture needs Chromium, and it is not there or did not draw."""


def write_page(folder: Path) -> Path:
    """Write the page of the run in `folder` and return its path; RunNotFoundError names what is missing."""
    from plotly.offline import get_plotlyjs

    record = read_run(folder)
    bars = {name: column.to_numpy() for name, column in _read(folder / EQUITY).items()}
    trades = {name: column.to_list() for name, column in _read(folder / TRADES).items()}
    page = render_tearsheet(record, _columns(bars), trades, script=get_plotlyjs())
    path, beside = folder / PAGE, folder / f".{PAGE}.{os.getpid()}"
    beside.write_text(page, "utf-8")
    beside.replace(path)
    return path


def write_picture(page: Path) -> Path:
    """Draw a page with Chromium and return the PNG beside it; BrowserError when that cannot be done."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        raise BrowserError("--png needs Chromium on PATH; found none of " + ", ".join(_BROWSERS))
    picture = page.with_name(PICTURE)
    picture.unlink(missing_ok=True)
    # Chromium draws what its window holds: first it says how long the page is.
    told = _browse(browser, page, 900, "--dump-dom")
    height = _HEIGHT.search(told.stdout)
    if height is not None:
        told = _browse(browser, page, int(height[1]), f"--screenshot={picture}")
    if not picture.is_file():
        last = (told.stderr.strip().splitlines() or ["no message"])[-1]
        raise BrowserError(f"{browser} drew nothing (exit {told.returncode}): {last}")
    return picture


def _browse(browser: str, page: Path, height: int, task: str) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory(prefix="qmtl-page-", ignore_cleanup_errors=True) as profile:
        command = [browser, "--headless", "--disable-gpu", "--disable-quic", "--no-first-run"]
        command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
        command += ["--hide-scrollbars", "--virtual-time-budget=8000", f"--user-data-dir={profile}"]
        command += ["--no-sandbox"] if os.geteuid() == 0 else []
        command += [f"--window-size={_WIDTH},{height}", task, page.resolve().as_uri()]
        try:
            return subprocess.run(  # noqa: S603 - a browser found on PATH, on a page of ours
                command, capture_output=True, text=True, timeout=_BROWSER_S, check=False
            )
        except subprocess.TimeoutExpired:
            raise BrowserError(f"{browser} drew nothing within {_BROWSER_S:.0f} s") from None


def _read(path: Path) -> Any:
    import polars as pl

    if not path.is_file():
        raise RunNotFoundError(f"{path}: is missing; the run is not whole")
    try:
        frame = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise RunNotFoundError(f"{path}: cannot be read: {error}") from None
    return {name: frame[name] for name in frame.columns}


def _columns(bars: Mapping[str, Any]) -> dict[str, Any]:
    """Name columns as the page wants them; with several symbols only closes are kept, and they stand in."""
    close = bars["close"]
    others = [name.removeprefix("close_") for name in bars if name.startswith("close_")]
    held = [bars["position"] * close, *(bars[f"position_{one}"] * bars[f"close_{one}"] for one in others)]
    own = {"open_ms": bars["ts"], "close": close, "equity": bars["equity"]}
    own["notional"] = np.nansum(held, axis=0)
    for name in ("open", "high", "low"):
        own[name] = bars.get(name, close)
    lines = {name.removeprefix("plot_"): line for name, line in bars.items() if name.startswith("plot_")}
    return own | {name: np.asarray(line, np.float64) for name, line in lines.items() if name not in own}


def compare_runs(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """Return what differs in how runs were made, and their figures side by side.

    The first is one line a difference ("window: 20, 30"); a run on other data or costs is no better run.
    """
    made = [_made(record) for record in records]
    names = list(dict.fromkeys(name for one in made for name in one))
    different = [
        f"{name}: {', '.join(str(one.get(name, 'none')) for one in made)}"
        for name in names
        if len({str(one.get(name)) for one in made}) > 1
    ]
    return different, [(name, [record["figures"].get(name) for record in records]) for name in COMPARED]


COMPARED = (
    "trades",
    "net_pct",
    "gross",
    "fees",
    "funding",
    "max_drawdown_bars",
    "sharpe",
    "sharpe_low",
    "sharpe_high",
    "sortino",
    "calmar",
    "profit_factor",
    "win_rate",
    "expectancy",
    "exposure",
    "turnover",
)


_UNSAID = ("maker_fee", "latency_sigma", "path", "margin_mode", "asset", "limits")


def _made(record: Mapping[str, Any]) -> dict[str, Any]:
    """What went into a run, flat."""
    strategy, terms = record["strategy"], record["terms"]
    rates = record.get("funding", {})
    made = {
        "interval": record["plan"]["interval"],
        "data": " ".join(f"{one['symbol']} {one['fingerprint'][:15]}…" for one in record["data"]),
        "size": record["sizing"],
        "costs": record["costs"],
        "fills": record["fill_model"],
        "first balance": terms["wallet"],
        "funding": " ".join(f"{name} {rate[:15]}…" for name, rate in rates.items() if rate) or "no rates",
        "warm-up": record["warmup"],
        "instruments": record["instruments"],
        # `costs` says the other terms.
        **{name.replace("_", " "): terms.get(name) for name in _UNSAID},
        "excluded": record["excluded"],
        "seed": record["seed"],
        "program": record["versions"]["qmtl"],
    }
    taken = {"strategy", "file", *made}
    params = {f"param {name}" if name in taken else name: value for name, value in record["params"].items()}
    return {"strategy": strategy["class"], "file": f"sha256 {strategy['sha256'][:12]}…", **params, **made}
