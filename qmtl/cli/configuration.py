"""`qmtl config show` and `qmtl config check`."""

from decimal import Decimal
from pathlib import Path
from typing import Annotated

import typer

from qmtl.cli.command_list import CommandList
from qmtl.cli.invocation import Invocation


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        cls=CommandList, help="Show or check the effective configuration.", no_args_is_help=True
    )
    group.command("show")(show)
    group.command("check")(check)
    app.add_typer(group, name="config")


def show(
    ctx: typer.Context,
    prefix: Annotated[str, typer.Argument(help="Only keys that start with this, such as risk.")] = "",
) -> None:
    """Print every effective value with its source; secrets are redacted."""
    invocation: Invocation = ctx.obj
    rows = [row for row in invocation.load().rows() if row[0].startswith(prefix)]
    body = {key: {"value": _plain(value), "source": source} for key, value, source in rows}
    width = max((len(key) for key, _, _ in rows), default=0)
    lines = [
        f"{key:<{width}}  {'-' if value is None else _plain(value)}"
        + ("" if source == "default" else f"  ({source})")
        for key, value, source in rows
    ]
    invocation.answer(body, "\n".join(lines))


def check(ctx: typer.Context) -> None:
    """Check the configuration and the files it names; exit 2 with one line when something is wrong."""
    from qmtl.config import account_keys, account_name

    invocation: Invocation = ctx.obj
    loaded = invocation.load()
    keys = account_keys(loaded.settings)
    name = account_name(loaded.settings)
    where = str(loaded.file) if loaded.file else "defaults and environment"
    body = {
        "ok": True,
        "file": str(loaded.file) if loaded.file else None,
        "account": name,
        "keys": keys is not None,
    }
    invocation.answer(body, f"{where}: ok · account {name} · keys {'configured' if keys else 'none'}")


def _plain(value: object) -> object:
    if isinstance(value, Decimal | Path):
        return str(value)
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
