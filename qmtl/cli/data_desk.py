"""What every verb of `qmtl data` works with: the store of one exchange, and reports of what it holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation, now_ms
from qmtl.cli.series import TRADES, NamedSeries, find_home, of_key

if TYPE_CHECKING:
    from qmtl.runtime.sdk.coverage_report import CoverageReport
    from qmtl.runtime.sdk.history import CoverageSpan, HistoryStore
    from qmtl.settings import Settings


class DataDesk(NamedTuple):
    """What a command works with; `store` holds rows of the configured endpoint of one exchange."""

    invocation: Invocation
    settings: "Settings"
    store: "HistoryStore"
    artifact_dir: Path


@asynccontextmanager
async def open_desk(
    invocation: Invocation, settings: "Settings", exchange: str, kind: str
) -> AsyncIterator[DataDesk]:
    """Open the store of an exchange, or of the test venue the configuration puts in its place."""
    from qmtl.runtime.io.seamless_provider import find_place, open_store

    home = find_home(exchange, kind)
    store = open_store(table=TRADES if kind == TRADES else None, endpoint=home)
    try:
        yield DataDesk(invocation, settings, store, find_place(settings.seamless.artifact_dir, home))
    finally:
        await store.aclose()


async def stored_series(desk: DataDesk, exchange: str | None) -> list[NamedSeries]:
    """Return every series of the store, of one exchange when it is named; BadInputError without a list."""
    listing = getattr(desk.store, "series", None)
    if listing is None:
        raise BadInputError("this store cannot list its series; name one: SYMBOL TIMEFRAME")
    every = [of_key(key) for key in await listing()]
    return [one for one in every if exchange in {None, one.exchange}]


def newest_closed(series: NamedSeries) -> int:
    """Return the end of the newest closed cell: 90 days of minutes are 129,600 closed bars."""
    from qmtl.runtime.sdk.fetch_plan import plan_window

    return plan_window(series.key, 0, 0, now_s=now_ms() // 1000, stabilization_bars=0).newest_closed


def plan(series: NamedSeries, span: tuple[int, int], settings: "Settings") -> Any:
    """Return a range as closed and open cells of the series."""
    from qmtl.runtime.sdk.fetch_plan import plan_window

    bars = settings.seamless.stabilization_bars
    return plan_window(series.key, *span, now_s=now_ms() // 1000, stabilization_bars=bars)


def find_bounds(
    series: NamedSeries,
    spans: "list[CoverageSpan]",
    span: tuple[int, int] | None,
    settings: "Settings",
    *,
    must: bool,
) -> tuple[int, int] | None:
    """Return the closed cells that were asked for, else those from the first row to the last."""
    from qmtl.runtime.sdk.coverage_report import bounds_of

    bounds = bounds_of(spans)
    if bounds is None and must:
        raise CommandFailedError(f"{series}: nothing is stored; bring rows with qmtl data fetch")
    if span is None or bounds is None:
        return bounds
    window = plan(series, span, settings)
    return window.first, window.closed_until


def make_report(
    series: NamedSeries, spans: "list[CoverageSpan]", start: int, end: int, missing: Any = ()
) -> "CoverageReport":
    """Return what cells [start, end) hold; `missing` explains holes."""
    from qmtl.runtime.sdk.coverage_report import report_coverage

    return report_coverage(series.key, spans, start, end, missing)


def open_conformance(settings: "Settings") -> Any:
    """Return the pipeline of the configured preset."""
    from qmtl.runtime.sdk.conformance import ConformancePipeline
    from qmtl.runtime.sdk.presets import load_presets

    presets = load_presets(settings.seamless.presets_file)
    return ConformancePipeline(presets.conformance_preset(settings.seamless.conformance_preset))


def cell_name(series: NamedSeries) -> str:
    """Return what cells of the series are called."""
    return "hours" if series.timeframe == TRADES else "bars"
