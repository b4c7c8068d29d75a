"""`qmtl lint`: whether a strategy looks ahead, and how many bars it needs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmtl.cli.invocation import DONE, FAILED, Invocation
from qmtl.cli.strategy_options import ParamOption, ParamsFile, StrategyArgument, open_strategy

if TYPE_CHECKING:
    from qmtl.runtime.sdk.bars import Bars

DataOption = Annotated[
    Path | None, typer.Option("--data", help="Candles to look at, instead of a seeded market.")
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(lint)


def lint(
    ctx: typer.Context,
    strategy: StrategyArgument,
    param: ParamOption = None,
    params: ParamsFile = None,
    data: DataOption = None,
) -> int:
    """Cut the future and the past off, and see whether a signal changes; exit 1 when one does."""
    from qmtl.runtime.sdk.lint import keep_warmup
    from qmtl.runtime.sdk.lint import lint as look
    from qmtl.runtime.sdk.strategy_file import naming_faults
    from qmtl.runtime.sdk.trade_settings import find_plan

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    source, opened = open_strategy(strategy, param or (), params)
    with naming_faults(source):
        plan = find_plan(settings, opened)
        market = None if data is None else read_market(data, plan.markets[0], plan.interval)
        report = look(opened, plan.markets, market)
    if report.is_clean and report.needed is not None:
        keep_warmup(source, opened, report.needed)
    body = {
        "strategy": source.reference,
        "params": opened.chosen,
        "is_clean": report.is_clean,
        "decide_on": report.decide_on,
        "warmup": report.needed,
        "declared": report.declared,
        "looks_ahead": [{"column": one.column, "row": one.row, "cut": one.cut} for one in report.peeks],
        "unsteady": list(report.unsteady),
        "is_silent": report.is_silent,
    }
    invocation.answer(body, "\n".join(report.lines()))
    return DONE if report.is_clean else FAILED


def read_market(path: Path, symbol: str, interval: str) -> "Bars":
    """Return the candles of a file."""
    from qmtl.cli.invocation import BadInputError
    from qmtl.runtime.io.market_file import load_history

    try:
        return load_history(path, symbol=symbol, interval=interval).bars
    except FileNotFoundError as error:
        raise BadInputError(str(error)) from None
