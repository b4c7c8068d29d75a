"""`status`, `pause`, `resume` and `set-limit`: talk to a running trader."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation, who_asks
from qmtl.cli.places import find_socket

if TYPE_CHECKING:
    from qmtl.engine.control_client import ControlClient

Account = Annotated[str | None, typer.Option("--account", help="Account name; riskier requests need it.")]
Why = Annotated[str, typer.Option("--why", help="Kept in the journal beside the change.")]
Ask = Callable[["ControlClient"], Awaitable[dict[str, Any]]]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(status)
    app.command()(pause)
    app.command()(resume)
    app.command("set-limit")(set_limit)


def ask(invocation: Invocation, account: str | None, question: Ask) -> dict[str, Any]:
    """Put one question to the running trader of `account` and return its answer."""
    from qmtl.engine.control_client import ControlClient

    path = find_socket(invocation.load().settings, account)

    async def run() -> dict[str, Any]:
        async with ControlClient(path, who=who_asks()) as client:
            return await question(client)

    return asyncio.run(run())


def status(ctx: typer.Context, account: Account = None) -> None:
    """Show state, position, orders, streams, limits and the last decision of a running trader."""
    from qmtl.cli.status_text import dump_status

    invocation: Invocation = ctx.obj
    body = ask(invocation, account, lambda client: client.status())
    invocation.answer(body, dump_status(body))


def pause(ctx: typer.Context, account: Account = None, why: Why = "") -> None:
    """Take no entries; exits and stops go on working (state REDUCING)."""
    invocation: Invocation = ctx.obj
    body = ask(invocation, account, lambda client: client.pause(why))
    tell_state(invocation, body, "paused: no entries; exits and stops work")


def resume(ctx: typer.Context, account: Account = None, why: Why = "") -> None:
    """Trade again; the account name must be typed."""
    invocation: Invocation = ctx.obj
    name = require_name(account, "resume")
    body = ask(invocation, account, lambda client: client.resume(name, why))
    tell_state(invocation, body, "resumed: entries are allowed")


def set_limit(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A key of the risk section, such as max_daily_loss.")],
    value: Annotated[str, typer.Argument(help="A number, or none to remove the limit.")],
    account: Account = None,
) -> None:
    """Change a risk limit until the next start: lowering is free, raising needs --account NAME."""
    invocation: Invocation = ctx.obj
    wanted = None if value.lower() == "none" else value
    body = ask(invocation, account, lambda client: client.set_limit(name, wanted, account or ""))
    shown = "no limit" if body.get("to") is None else body["to"]
    invocation.answer(body, f"{name}: {body.get('from') or 'no limit'} -> {shown}")


def require_name(account: str | None, what: str) -> str:
    """Return the account name, typed now or given with --account."""
    if account:
        return account
    if not sys.stdin.isatty():
        raise BadInputError(f"{what} needs the account name: --account NAME")
    typed = typer.prompt(
        f"{what} makes trading riskier; type the account name", default="", show_default=False
    )
    if not typed:
        raise BadInputError(f"{what} needs the account name: --account NAME")
    return str(typed)


def tell_state(invocation: Invocation, body: dict[str, Any], done: str) -> None:
    """Print what a state change led to; a trader that did not follow is a failure."""
    if "asked" in body and body["asked"] != body["state"]:
        raise CommandFailedError(f"asked for {body['asked']}, the trader is still {body['state']}")
    invocation.answer(body, str(body.get("note") or done))
