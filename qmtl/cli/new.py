"""`qmtl new`: a strategy to begin with."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli.invocation import BadInputError, Invocation


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(new)


def new(ctx: typer.Context, file: Annotated[Path, typer.Argument(help="NAME.py")]) -> None:
    """Write a strategy file that runs as it is."""
    invocation: Invocation = ctx.obj
    if file.suffix != ".py":
        raise BadInputError(f"{file}: expected NAME.py")
    text = files("qmtl.examples.strategies").joinpath("band_break.py").read_text("utf-8")
    try:
        with file.open("x", encoding="utf-8") as written:
            written.write(text)
    except FileExistsError:
        raise BadInputError(f"{file}: exists already") from None
    except OSError as error:
        raise BadInputError(f"{file}: cannot be written: {error.strerror}") from None
    invocation.answer({"file": str(file)}, "")
