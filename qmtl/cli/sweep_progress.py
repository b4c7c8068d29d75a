"""What a terminal shows while a sweep compiles, starts its workers and tries its sets; nothing elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from qmtl.cli.invocation import Invocation

if TYPE_CHECKING:
    from qmtl.engine.sweep import Sampler


@contextmanager
def spinner_of(invocation: Invocation, title: str) -> Iterator[None]:
    """Show a labelled spinner on a terminal; nothing elsewhere."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False)
    if invocation.is_json or invocation.is_quiet or not console.is_terminal:
        yield
        return
    with console.status(title):
        yield


@contextmanager
def progress_of(
    invocation: Invocation, title: str, done: int, sampler: "Sampler"
) -> Iterator[Callable[[], None]]:
    """Show sets done, rate and time left on a terminal; nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    if invocation.is_json or invocation.is_quiet or not console.is_terminal:
        yield lambda: None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("sets · {task.fields[rate]} · left"),
        TimeRemainingColumn(),
    )
    began_s, count = time.perf_counter(), 0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=sampler.total, completed=done, rate="– sets/s")

        def tell() -> None:
            nonlocal count
            count += 1
            rate = count / max(1e-9, time.perf_counter() - began_s)
            bar.update(task, advance=1, total=sampler.total, rate=f"{rate:.1f} sets/s")

        yield tell
