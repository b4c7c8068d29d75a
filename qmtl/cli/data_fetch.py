"""`qmtl data fetch`: what is missing of a range from the exchange, or the rows of a file."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.data_desk import (
    DataDesk,
    cell_name,
    make_report,
    newest_closed,
    open_conformance,
    open_desk,
    plan,
)
from qmtl.cli.fetch_progress import WatchedStore, progress
from qmtl.cli.funding import bring_funding
from qmtl.cli.invocation import (
    DONE,
    BadInputError,
    CommandFailedError,
    Invocation,
    now_ms,
    one_line,
    refusing,
)
from qmtl.cli.series import NamedSeries, default_exchange, make_fetcher, name_series
from qmtl.cli.time_range import parse_range

if TYPE_CHECKING:
    from qmtl.runtime.sdk.coverage_report import CoverageReport
    from qmtl.settings import Settings

SymbolArgument = Annotated[str, typer.Argument(help="BTCUSDT, BTC/USDT or BTC/USDT:USDT.")]
TimeframeArgument = Annotated[str, typer.Argument(help="1m, 1h, … or trades.")]
Exchange = Annotated[str | None, typer.Option("--exchange", help="Default: account.venue.")]
Since = Annotated[str | None, typer.Option("--since", help="How far back, such as 90d.")]
Start = Annotated[str | None, typer.Option("--start", help="From this time, UTC.")]
End = Annotated[str | None, typer.Option("--end", help="Up to this time, UTC.")]


def fetch(
    ctx: typer.Context,
    symbol: SymbolArgument,
    timeframe: TimeframeArgument,
    exchange: Exchange = None,
    since: Since = None,
    start: Start = None,
    end: End = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Import Parquet, Feather, CSV or a monthly file of the exchange."),
    ] = None,
    unit: Annotated[
        str | None, typer.Option("--unit", help="Of whole numbers in FILE: s, ms, us, ns.")
    ] = None,
) -> int:
    """Bring history into the store: what is missing of a range, or the rows of a file."""
    from qmtl.runtime.io.history_file import UNITS
    from qmtl.runtime.sdk import runtime

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    series = name_series(symbol, timeframe, default_exchange(settings, exchange))
    span = parse_range(since, start, end, newest_closed(series))
    if unit is not None and unit not in UNITS:
        raise BadInputError(f"--unit: found {unit!r}, expected {', '.join(UNITS)}")
    if file is None and span is None:
        raise BadInputError("say what to fetch: --since 90d, --start TIME [--end TIME] or --file PATH")
    if file is not None and span is not None:
        raise BadInputError("--file brings the range of the file; leave --since, --start and --end out")
    began_ms = now_ms()
    with runtime.using(settings):
        if file is not None:
            return asyncio.run(_import(invocation, settings, series, file, unit, began_ms))
        try:
            return asyncio.run(_backfill(invocation, settings, series, span or (0, 0), began_ms))
        except KeyboardInterrupt:
            invocation.note(
                "interrupted; what was brought is stored, and the same command goes on from there"
            )
            raise


async def _backfill(
    invocation: Invocation, settings: "Settings", series: NamedSeries, span: tuple[int, int], began_ms: int
) -> int:
    from qmtl.core.ranges import measure_ranges, subtract_ranges
    from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
    from qmtl.runtime.sdk.fetch_plan import covered_ranges
    from qmtl.runtime.sdk.history import FatalFetchError, SeamlessUnavailableError
    from qmtl.runtime.sdk.seamless_data_provider import CacheConfig

    key = series.key
    fetcher = make_fetcher(series.exchange, key.named.kind)
    async with open_desk(invocation, settings, series.exchange, series.timeframe) as desk:
        window = plan(series, span, settings)
        spans = await desk.store.coverage(key)
        wanted = subtract_ranges(window.closed, covered_ranges(spans, window.young_from))
        cells = measure_ranges(wanted) // key.interval
        missing: list[Any] = []
        cause: BaseException | None = None
        with progress(invocation, str(series), cells, cell_name(series)) as advance:
            watched = WatchedStore(desk.store, lambda seconds: advance(seconds // key.interval))
            provider = EnhancedQuestDBProvider(
                store=watched, fetcher=fetcher, strategy="AUTO_BACKFILL", cache=CacheConfig(enable=False)
            )
            async with provider:
                try:
                    await provider.ensure_range(*span, node_id=key.node_id, interval=key.interval)
                except SeamlessUnavailableError as error:
                    missing, cause = error.missing, error.__cause__ or error
                if isinstance(cause, FatalFetchError):
                    raise BadInputError(one_line(cause)) from cause
                spans = await desk.store.coverage(key)
                report = make_report(series, spans, window.first, window.closed_until, missing)
                # The provider closes the store it was given.
                body, lines = await _describe(desk, series, report, began_ms)
        if cause is None:
            await bring_funding(invocation, series, (window.first, window.closed_until))
        invocation.answer(body, lines)
    if report.missing:
        raise CommandFailedError(one_line(cause) if cause else f"{len(report.missing)} holes stay")
    return DONE


async def _import(
    invocation: Invocation,
    settings: "Settings",
    series: NamedSeries,
    file: Path,
    unit: Any,
    began_ms: int,
) -> int:
    from qmtl.runtime.io.history_import import read_history, store_history

    with refusing(FileNotFoundError):
        rows, said = read_history(file, series.key, open_conformance(settings), unit=unit)
    async with open_desk(invocation, settings, series.exchange, series.timeframe) as desk:
        with progress(invocation, f"{file.name} → {series}", rows.height, "rows") as advance:
            first, last = await store_history(
                desk.store,
                series.key,
                rows,
                now_s=now_ms() // 1000,
                stabilization_bars=settings.seamless.stabilization_bars,
                on_progress=advance,
            )
        report = make_report(series, await desk.store.coverage(series.key), first, last)
        for line in said.warnings:
            if not line.startswith("gap:"):  # the holes are listed one by one
                invocation.note(f"{file}: {line}")
        body, lines = await _describe(desk, series, report, began_ms)
    invocation.answer(body, lines)
    return DONE


async def _describe(
    desk: DataDesk, series: NamedSeries, report: "CoverageReport", began_ms: int
) -> tuple[dict[str, Any], str]:
    """Return the answer for machines and for people, with an artifact published where that is asked for."""
    from qmtl.cli.coverage_text import report_json, report_lines, took
    from qmtl.runtime.io.stored_artifact import publish_stored

    seconds = (now_ms() - began_ms) / 1000
    body = report_json(series, report) | {"elapsed_s": round(seconds, 3)}
    if desk.settings.seamless.artifacts_enabled and report.filled:
        published = await publish_stored(
            desk.store,
            series.key,
            (report.start, report.end),
            desk.artifact_dir,
            conformance=open_conformance(desk.settings),
            stabilization_bars=desk.settings.seamless.stabilization_bars,
        )
        body |= {"dataset_fingerprint": published.fingerprint, "as_of": published.as_of}
    return body, report_lines(series, report, took(seconds))
