"""Progress of long work on data: a bar with rate and time left on a terminal, nothing elsewhere."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

    from qmtl.cli.invocation import Invocation
    from qmtl.core.ranges import Range
    from qmtl.runtime.sdk.history import CoverageSpan, HistoryStore, SeriesKey


class WatchedStore:
    """A store that tells how many seconds of a series each write and each confirmed hole covered."""

    def __init__(self, store: "HistoryStore", on_covered: Callable[[int], None]) -> None:
        self._store = store
        self._on_covered = on_covered

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, key: "SeriesKey", start: int, end: int) -> "pl.DataFrame":
        """See HistoryStore."""
        return await self._store.read(key, start, end)

    async def write(
        self,
        key: "SeriesKey",
        frame: "pl.DataFrame",
        *,
        covered: "Sequence[Range]",
        provisional: bool = False,
        fence: int | None = None,
    ) -> int:
        """See HistoryStore."""
        rows = await self._store.write(key, frame, covered=covered, provisional=provisional, fence=fence)
        self._on_covered(sum(end - start for start, end in covered))
        return rows

    async def mark_empty(self, key: "SeriesKey", ranges: "Sequence[Range]", *, permanent: bool) -> None:
        """See HistoryStore."""
        await self._store.mark_empty(key, ranges, permanent=permanent)
        self._on_covered(sum(end - start for start, end in ranges))

    async def coverage(self, key: "SeriesKey", *, now: int | None = None) -> "list[CoverageSpan]":
        """See HistoryStore."""
        return await self._store.coverage(key, now=now)

    async def aclose(self) -> None:
        """See HistoryStore."""
        await self._store.aclose()


@contextmanager
def progress(
    invocation: "Invocation", title: str, total: int, unit: str = "bars"
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the body runs and give what advances it."""
    if invocation.is_json or invocation.is_quiet:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    if not console.is_terminal or not total:
        yield lambda _: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total, rate="")

        def advance(steps: int) -> None:
            bar.advance(task, steps)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield advance
