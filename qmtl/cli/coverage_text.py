"""Coverage for people: the line of a series, its holes, and a heat map by day."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from qmtl.cli.series import TRADES, NamedSeries
from qmtl.cli.time_range import show_moment

if TYPE_CHECKING:
    from rich.text import Text

    from qmtl.runtime.sdk.coverage_report import CoverageReport, DayShare, Hole

_SCALE = ((1.0, "█", "green"), (0.75, "▓", "yellow"), (0.25, "▒", "yellow"), (1e-9, "░", "yellow"))
_NONE, _EMPTY, _OUTSIDE = ("·", "red"), ("○", "blue"), (" ", "")
_LEGEND = "█ whole  ▓ ▒ ░ in part  · missing  ○ confirmed empty"
_RULER = "".join(f"{day:<5}" for day in (1, 6, 11, 16, 21, 26)) + "31"
_BAR_OF_STRIP = 48


def headline(series: NamedSeries, report: "CoverageReport") -> str:
    """Return `binanceusdm BTC/USDT:USDT 1m 129,600/129,600 · 0 holes`."""
    count = len(report.holes)
    return f"{series} {report.filled:,}/{report.cells:,} · {count:,} hole{'' if count == 1 else 's'}"


def took(seconds: float) -> str:
    """Return a duration as 0:41 or 1:02:03."""
    whole = int(seconds)
    hours, rest = divmod(whole, 3_600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def hole_line(series: NamedSeries, hole: "Hole") -> str:
    """Return a hole with its bounds and reason."""
    step = series.key.interval
    fine = step % 60 != 0
    cells = (hole.end - hole.start) // step
    unit = ("hour" if series.timeframe == TRADES else "bar") + ("" if cells == 1 else "s")
    start, end = (show_moment(at, seconds=fine) for at in (hole.start, hole.end))
    return f"  hole {start} → {end} · {cells:,} {unit} · {hole.reason}"


def report_lines(series: NamedSeries, report: "CoverageReport", tail: str = "") -> str:
    """Return the headline, with `tail` behind it, and a line for each hole."""
    first = headline(series, report) + (f" · {tail}" if tail else "")
    return "\n".join([first, *(hole_line(series, hole) for hole in report.holes)])


def report_json(series: NamedSeries, report: "CoverageReport") -> dict[str, Any]:
    """Return a report for machines; times are epoch seconds."""
    return {
        **series.as_json(),
        "start": report.start,
        "end": report.end,
        "filled": report.filled,
        "cells": report.cells,
        "holes": [hole._asdict() for hole in report.holes],
    }


def heat_map(days: "Sequence[DayShare]") -> "Text":
    """Return a line for each month with a mark for each day; runs of months without rows are one line."""
    from rich.text import Text

    page = Text()
    page.append(f"        {_RULER}  (UTC)\n", "dim")
    months = [(month, list(members)) for month, members in groupby(days, key=_month)]
    for is_bare, group in groupby(months, key=lambda month: not any(one.filled for one in month[1])):
        run = list(group)
        if is_bare and len(run) > 1:
            page.append(f"{run[0][0]} … {run[-1][0]}  no rows in {len(run)} months\n", "red")
            continue
        for month, members in run:
            page.append(f"{month} ", "dim")
            page.append(" " * (_day_of_month(members[0]) - 1))
            for share in members:
                page.append(*_mark(share))
            page.append("\n")
    page.append(_LEGEND, "dim")
    return page


def strip(days: "Sequence[DayShare]") -> "Text":
    """Return the whole of a series as one short line."""
    from rich.text import Text

    line = Text()
    width = max(1, -(-len(days) // _BAR_OF_STRIP))
    for chunk in _chunks(days, width):
        sums = {name: sum(getattr(day, name) for day in chunk) for name in ("filled", "empty", "asked")}
        line.append(*_mark(chunk[0]._replace(**sums)))
    return line


def _chunks(days: "Sequence[DayShare]", width: int) -> "Iterator[Sequence[DayShare]]":
    for at in range(0, len(days), width):
        yield days[at : at + width]


def _mark(share: "DayShare") -> tuple[str, str]:
    if share.asked <= 0:
        return _OUTSIDE
    if not share.filled:
        return _EMPTY if share.empty >= share.asked - 1e-9 else _NONE
    known = (share.filled + share.empty) / share.asked
    return next((mark, style) for least, mark, style in _SCALE if known >= least - 1e-9)


def _month(share: "DayShare") -> str:
    return datetime.fromtimestamp(share.day, UTC).strftime("%Y-%m")


def _day_of_month(share: "DayShare") -> int:
    return datetime.fromtimestamp(share.day, UTC).day
