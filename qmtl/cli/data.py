"""`qmtl data`: history fetched, looked at, checked and carried away."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmtl.cli.command_list import CommandList
from qmtl.cli.data_desk import (
    DataDesk,
    find_bounds,
    make_report,
    newest_closed,
    open_conformance,
    open_desk,
    stored_series,
)
from qmtl.cli.data_fetch import End, Exchange, Since, Start, SymbolArgument, TimeframeArgument, fetch
from qmtl.cli.fetch_progress import progress
from qmtl.cli.invocation import DONE, FAILED, BadInputError, CommandFailedError, Invocation, now_ms
from qmtl.cli.series import TRADES, NamedSeries, default_exchange, name_series
from qmtl.cli.time_range import parse_range, show_moment

if TYPE_CHECKING:
    from qmtl.runtime.io.history_audit import Difference
    from qmtl.settings import Settings

MaybeSymbol = Annotated[str | None, typer.Argument(help="BTCUSDT, BTC/USDT or BTC/USDT:USDT.")]
MaybeTimeframe = Annotated[str | None, typer.Argument(help="1m, 1h, … or trades.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=CommandList, help="Fetch history, see what is there, check it, export it.", no_args_is_help=True
    )
    for verb in (fetch, coverage, verify, export):
        group.command(verb.__name__)(verb)
    app.add_typer(group, name="data")


# --- coverage -------------------------------------------------------------------------------------


def coverage(
    ctx: typer.Context,
    symbol: MaybeSymbol = None,
    timeframe: MaybeTimeframe = None,
    exchange: Exchange = None,
    since: Since = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Show what is stored: a heat map by day and the holes; without a symbol every series."""
    from qmtl.runtime.sdk import runtime

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    series = _named(symbol, timeframe, exchange, settings)
    span = parse_range(since, start, end, newest_closed(series) if series else now_ms() // 1000)
    with runtime.using(settings):
        asyncio.run(_show_coverage(invocation, settings, series, exchange, span))


async def _show_coverage(
    invocation: Invocation,
    settings: "Settings",
    series: NamedSeries | None,
    exchange: str | None,
    span: tuple[int, int] | None,
) -> None:
    from qmtl.cli.coverage_text import headline, heat_map, report_json, report_lines, strip
    from qmtl.runtime.sdk.coverage_report import share_by_day

    where = default_exchange(settings, exchange)
    console = invocation.console()
    told = []
    async with open_desk(invocation, settings, where, series.timeframe if series else "") as desk:
        every = [series] if series else await stored_series(desk, exchange)
        for one in every:
            spans = await desk.store.coverage(one.key)
            report = make_report(
                one, spans, *(find_bounds(one, spans, span, settings, must=series is not None) or (0, 0))
            )
            if not report.cells:
                continue
            days = share_by_day(spans, report.start, report.end)
            told.append(report_json(one, report) | {"days": [day._asdict() for day in days]})
            if invocation.is_json:
                continue
            edges = f"{show_moment(report.start)} → {show_moment(report.end)}"
            if series is None:
                console.print(f"{headline(one, report)} · {edges}", soft_wrap=True)
                console.print(strip(days))
            else:
                console.print(f"{one} · {edges}", soft_wrap=True)
                console.print(heat_map(days))
                print(report_lines(one, report))
    if series is None and not told:
        raise CommandFailedError("nothing is stored; bring rows with qmtl data fetch")
    if invocation.is_json:
        invocation.answer({"series": told}, "")


# --- verify ---------------------------------------------------------------------------------------


def verify(
    ctx: typer.Context,
    symbol: MaybeSymbol = None,
    timeframe: MaybeTimeframe = None,
    exchange: Exchange = None,
    forget: Annotated[
        bool, typer.Option("--forget", help="Drop segments whose bytes differ; they can be fetched again.")
    ] = False,
) -> int:
    """Check stored rows against hashes, coverage, conformance and artifacts; exit 1 on a difference."""
    from qmtl.runtime.sdk import runtime

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    with runtime.using(settings):
        return asyncio.run(
            _verify(
                invocation,
                settings,
                _named(symbol, timeframe, exchange, settings),
                exchange,
                forgets=forget,
            )
        )


async def _verify(
    invocation: Invocation,
    settings: "Settings",
    series: NamedSeries | None,
    exchange: str | None,
    *,
    forgets: bool,
) -> int:
    from qmtl.runtime.io.artifacts import ArtifactReader
    from qmtl.runtime.io.history_audit import audit_series

    found: list[tuple[NamedSeries, Difference]] = []
    where = default_exchange(settings, exchange)
    async with open_desk(invocation, settings, where, series.timeframe if series else "") as desk:
        every = [series] if series else await stored_series(desk, exchange)
        artifacts = ArtifactReader(desk.artifact_dir)
        with progress(invocation, "verify", len(every), "series") as advance:
            for one in every:
                audit = audit_series(desk.store, one.key, open_conformance(settings), artifacts)
                found += [(one, difference) async for difference in audit]
                advance(1)
        damaged = [(one, difference) for one, difference in found if difference.check == "hash"]
        forgotten = [await _forget(desk, *each) for each in damaged] if forgets else []
    lines = [_difference_line(one, difference) for one, difference in found]
    lines += forgotten
    if damaged and not forgets:
        lines.append("qmtl data verify --forget drops what is damaged; then it can be fetched again")
    lines.append(f"{len(every):,} series · {len(found):,} difference{'' if len(found) == 1 else 's'}")
    listed = [one.as_json() | difference._asdict() for one, difference in found]
    body = {"series": len(every), "differences": listed, "forgotten": len(forgotten)}
    invocation.answer(body, "\n".join(lines))
    return FAILED if found else DONE


async def _forget(desk: DataDesk, series: NamedSeries, damaged: "Difference") -> str:
    forget = getattr(desk.store, "forget", None)
    if forget is None:
        raise BadInputError("--forget: this store has no segments")
    await forget(series.key, damaged.start, damaged.end)
    return f"{series} · forgotten {show_moment(damaged.start)} → {show_moment(damaged.end)}"


def _difference_line(series: NamedSeries, difference: "Difference") -> str:
    where = f"{show_moment(difference.start)} → {show_moment(difference.end)} · " if difference.end else ""
    return f"{series} · {difference.check} · {where}{difference.what}"


# --- export ---------------------------------------------------------------------------------------


def export(
    ctx: typer.Context,
    symbol: SymbolArgument,
    timeframe: TimeframeArgument,
    file: Annotated[Path, typer.Argument(help="FILE.parquet, .feather, .csv or .csv.gz.")],
    exchange: Exchange = None,
    since: Since = None,
    start: Start = None,
    end: End = None,
) -> None:
    """Write stored rows to a file, Parquet, Feather or CSV by its suffix."""
    from qmtl.runtime.io.history_file import check_writable
    from qmtl.runtime.sdk import runtime

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    check_writable(file)
    if not file.parent.is_dir():
        raise BadInputError(f"{file}: there is no folder {file.parent}")
    series = name_series(symbol, timeframe, default_exchange(settings, exchange))
    span = parse_range(since, start, end, newest_closed(series))
    with runtime.using(settings):
        asyncio.run(_export(invocation, settings, series, file, span))


async def _export(
    invocation: Invocation,
    settings: "Settings",
    series: NamedSeries,
    file: Path,
    span: tuple[int, int] | None,
) -> None:
    from qmtl.cli.coverage_text import report_json, report_lines
    from qmtl.runtime.io.history_file import write_rows

    async with open_desk(invocation, settings, series.exchange, series.timeframe) as desk:
        spans = await desk.store.coverage(series.key)
        report = make_report(
            series, spans, *(find_bounds(series, spans, span, settings, must=True) or (0, 0))
        )
        rows = await desk.store.read(series.key, report.start, report.end)
    if not rows.height:
        raise CommandFailedError(f"{series}: no rows are stored in that range")
    write_rows(rows, file)
    body = report_json(series, report) | {"file": str(file), "rows": rows.height}
    invocation.answer(body, report_lines(series, report, f"{rows.height:,} rows in {file}"))


def _named(
    symbol: str | None, timeframe: str | None, exchange: str | None, settings: "Settings"
) -> NamedSeries | None:
    if symbol is None:
        return None
    if timeframe is None:
        raise BadInputError(f"{symbol}: which timeframe? such as 1m, or {TRADES}")
    return name_series(symbol, timeframe, default_exchange(settings, exchange))
