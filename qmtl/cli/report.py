"""`qmtl report`: the page of a run, and runs side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from qmtl.cli.command_list import CommandList
from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's folder, id, or how its id begins.")]
FORMS = {
    "trades": ("closed trades", "{:,.0f}"),
    "net_pct": ("net", "{:+.2%}"),
    "gross": ("gross", "{:+,.2f}"),
    "fees": ("fees", "{:,.2f}"),
    "funding": ("funding", "{:+,.2f}"),
    "max_drawdown_bars": ("deepest drawdown", "{:.2%}"),
    "sharpe": ("Sharpe", "{:.1f}"),
    "sharpe_low": ("  95 % from", "{:.1f}"),
    "sharpe_high": ("  95 % to", "{:.1f}"),
    "sortino": ("Sortino", "{:.1f}"),
    "calmar": ("Calmar", "{:.1f}"),
    "profit_factor": ("profit factor", "{:.2f}"),
    "win_rate": ("trades won", "{:.2%}"),
    "expectancy": ("expectancy, a trade", "{:+,.2f}"),
    "exposure": ("bars in a position", "{:.2%}"),
    "turnover": ("turnover", "{:,.0f}"),
}
"""How figures are called and written for people; --json has them as they are kept."""
OutOption = Annotated[Path | None, typer.Option("--out", help="Where runs are kept.")]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group = typer.Typer(
        cls=CommandList, help="The page of a run, and runs side by side.", no_args_is_help=True
    )
    group.command()(show)
    group.command()(compare)
    app.add_typer(group, name="report")


def show(
    ctx: typer.Context,
    run: RunArgument,
    png: Annotated[bool, typer.Option("--png", help="Draw it as a picture too (needs Chromium).")] = False,
    directory: OutOption = None,
) -> None:
    """Write a run's tearsheet: one page that needs no network."""
    from qmtl.engine.tearsheet import percent, verdict
    from qmtl.runtime.io.run_page import BrowserError, write_page, write_picture
    from qmtl.runtime.io.run_record import read_run

    invocation: Invocation = ctx.obj
    folder = find(invocation, run, directory)
    figures = read_run(folder)["figures"]
    page = write_page(folder)
    body: dict[str, Any] = {"run": str(folder), "report": str(page), "figures": figures}
    lines = [f"{percent(figures['net_pct'])} net. {verdict(figures)}", f"report: {page}"]
    if png:
        try:
            body["picture"] = str(write_picture(page))
        except BrowserError as error:
            raise CommandFailedError(str(error)) from None
        lines.append(f"picture: {body['picture']}")
    invocation.answer(body, "\n".join(lines))


def compare(
    ctx: typer.Context,
    runs: Annotated[list[str], typer.Argument(metavar="RUN RUN…", help="Two to four runs.")],
    directory: OutOption = None,
) -> None:
    """Put two to four runs side by side: what differs in how they were made, then their figures."""
    from qmtl.runtime.io.run_page import compare_runs
    from qmtl.runtime.io.run_record import read_run

    invocation: Invocation = ctx.obj
    if not 2 <= len(runs) <= 4:
        raise BadInputError(f"compare takes two to four runs, got {len(runs)}")
    records = [read_run(find(invocation, run, directory)) for run in runs]
    different, rows = compare_runs(records)
    ids = [record["id"] for record in records]
    if invocation.is_json:
        invocation.answer({"runs": ids, "different": different, "figures": dict(rows)}, "")
        return
    _show_table(invocation, ids, different, rows)


def _show_table(
    invocation: Invocation, ids: list[str], different: list[str], rows: list[tuple[str, list[Any]]]
) -> None:
    from rich.table import Table

    table = Table("", *ids, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, values in rows:
        label, form = FORMS[name]
        # A zero has no sign, whatever it was computed from.
        shown = ("–" if value is None else form.format(value + 0.0).replace("-", "−") for value in values)
        table.add_row(label, *shown)
    console = invocation.console()
    for line in different or ["nothing differs in how they were made"]:
        console.print(line, markup=False, soft_wrap=True)
    console.print(table)


def find(invocation: Invocation, run: str, directory: Path | None) -> Path:
    """Return the folder of a run; RunNotFoundError says where was looked."""
    from qmtl.runtime.io.run_record import find_run

    settings = invocation.load({"--out": ("backtest.directory", directory)}).settings
    return find_run(run, settings.backtest.directory)
