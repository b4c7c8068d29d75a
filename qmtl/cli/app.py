"""The command `qmtl`: global options anywhere on the line, one clear line per error, exit codes.

0 done, 1 failed, 2 bad input (never worth a restart), 3 divergence, 130 interrupted.
"""

import sys
import traceback
from collections.abc import Sequence

import typer

from qmtl import __version__
from qmtl.cli import (
    backtest,
    configuration,
    control,
    coordinator,
    data,
    demo,
    direct,
    journal,
    lint,
    new,
    paper_exchange,
    parity,
    report,
    reproduce,
    sweep,
    tokens,
    trade,
    why,
)
from qmtl.cli.command_list import CommandList
from qmtl.cli.invocation import BAD_INPUT, DIVERGED, DONE, FAILED, INTERRUPTED, Invocation, one_line

_EPILOG = (
    "Everywhere: --json, -q/--quiet, -v/--verbose, -c/--config FILE."
    " Exit: 0 done, 1 failed, 2 bad input, 3 divergence, 130 interrupted."
)
_FLAGS = {
    "--json": "is_json",
    "-q": "is_quiet",
    "--quiet": "is_quiet",
    "-v": "is_verbose",
    "--verbose": "is_verbose",
}
_CODES = {
    "qmtl.cli.invocation.BadInputError": BAD_INPUT,
    "qmtl.config.ConfigError": BAD_INPUT,
    "qmtl.core.bar.BarError": BAD_INPUT,
    "qmtl.core.order.OrderValidationError": BAD_INPUT,
    "qmtl.engine.control.ControlRefusedError": BAD_INPUT,
    "qmtl.core.order.DomainViolation": BAD_INPUT,
    "qmtl.engine.loader.StrategyNotFoundError": BAD_INPUT,
    "qmtl.runtime.sdk.param.StrategyError": BAD_INPUT,
    "qmtl.engine.crew.CrewError": FAILED,
    "qmtl.engine.kernel.KernelError": BAD_INPUT,
    "qmtl.engine.sweep.SweepError": BAD_INPUT,
    "qmtl.runtime.io.run_record.RunNotFoundError": BAD_INPUT,
    "qmtl.trader.prelim.SetupRefusedError": BAD_INPUT,
    "qmtl.runtime.sdk.ohlcv_nodeid.NodeIdError": BAD_INPUT,
    "qmtl.engine.journal.DivergenceError": DIVERGED,
    "qmtl.runtime.sdk.history.FetchError": FAILED,
    "qmtl.runtime.sdk.history.SeamlessError": FAILED,
    "qmtl.runtime.sdk.history.StoreError": FAILED,
    "qmtl.cli.invocation.CommandFailedError": FAILED,
    "qmtl.engine.control.ControlError": FAILED,
    "qmtl.core.order.BrokerageError": FAILED,
    "builtins.OSError": FAILED,
}
"""Exit code of each expected error by its class or nearest base; names, so that nothing is imported."""

_ROOMS = (
    demo,
    new,
    data,
    lint,
    backtest,
    sweep,
    report,
    reproduce,
    trade,
    why,
    parity,
    paper_exchange,
    control,
    direct,
    journal,
    coordinator,
    tokens,
    configuration,
)


def build() -> typer.Typer:
    """Put the commands together."""
    app = typer.Typer(
        name="qmtl",
        cls=CommandList,
        help="Carry a trading strategy from history to live money without changing a line.",
        epilog=_EPILOG,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    for room in _ROOMS:
        room.register(app)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:] if arguments is None else list(arguments)))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are one line on stderr."""
    invocation = Invocation(arguments=tuple(arguments))
    try:
        rest = _take_globals(arguments, invocation)
        if "--version" in rest[:1]:
            invocation.answer({"version": __version__}, f"qmtl {__version__}")
            return DONE
        code = typer.main.get_command(build()).main(
            rest, prog_name="qmtl", standalone_mode=False, obj=invocation
        )
        return code if isinstance(code, int) else DONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except (typer.Abort, BrokenPipeError):
        return FAILED
    except typer.TyperException as error:
        text = error.format_message()
        if text:
            _complain(text)
        return BAD_INPUT
    except Exception as error:  # noqa: BLE001 - the outermost driver: one line instead of a traceback
        code = _code_of(error)
        _complain(
            one_line(error) if code is not None else f"unexpected {type(error).__name__}: {one_line(error)}"
        )
        if invocation.is_verbose:
            traceback.print_exception(error)
        elif code is None:
            print("run again with -v for the traceback", file=sys.stderr)
        return FAILED if code is None else code


def _complain(text: str) -> None:
    print(f"error: {' '.join(text.split())}", file=sys.stderr, flush=True)


def _code_of(error: Exception) -> int | None:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__)
    return next((_CODES[name] for name in names if name in _CODES), None)


def _take_globals(arguments: list[str], invocation: Invocation) -> list[str]:
    """Take the global options from wherever they stand before `--`; return the rest."""
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        name, separator, value = argument.partition("=")
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in _FLAGS:
            setattr(invocation, _FLAGS[argument], True)
        elif name in {"--config", "-c"}:
            if not separator:
                value = next(waiting, "")
            if not value:
                raise typer.TyperException(f"Option '{name}' requires an argument.")
            invocation.config = value
        else:
            rest.append(argument)
    return rest
