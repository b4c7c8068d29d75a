"""`halt` and `flatten`: through the running trader, or with the keys alone (`--direct`)."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.control import Account, Why, ask, require_name, tell_state
from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation, now_ms, one_line, who_asks
from qmtl.cli.places import Places

if TYPE_CHECKING:
    from qmtl.engine.control_client import ControlClient
    from qmtl.runtime.io.binance_futures import BinanceFuturesClient
    from qmtl.trader.direct import DirectReport

Direct = Annotated[bool, typer.Option("--direct", help="With the keys alone, when no trader answers.")]
Action = Callable[["BinanceFuturesClient"], Awaitable["DirectReport"]]
_FLAT_WITHIN_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(halt)
    app.command()(flatten)


def halt(ctx: typer.Context, account: Account = None, why: Why = "", direct: Direct = False) -> None:
    """Stop everything: entry orders are cancelled, resting protective orders stay at the venue."""
    invocation: Invocation = ctx.obj
    if not direct:
        body = ask(invocation, account, lambda client: client.halt(why))
        tell_state(invocation, body, "halted: no orders but cancels and protection; stops stay at the venue")
        return
    from qmtl.trader.direct import halt_directly

    report = act_directly(invocation, account, why or "halt --direct", halt_directly)
    held = ", ".join(report.positions) or "0"
    invocation.answer(
        _dump(report),
        f"halted at the venue: {len(report.cancelled)} orders cancelled · {len(report.kept)} protective kept"
        f" · position {held} · the next start begins HALTED",
    )


def flatten(ctx: typer.Context, account: Account = None, why: Why = "", direct: Direct = False) -> None:
    """Close every position reduce-only, verify zero, halt; the account name must be typed."""
    invocation: Invocation = ctx.obj
    name = require_name(account, "flatten")
    if not direct:
        body = ask(invocation, account, lambda client: _flatten_and_wait(client, name, why))
        held = body["positions"]
        if held:
            left = ", ".join(f"{p['quantity']} {p['symbol']}" for p in held)
            raise CommandFailedError(f"flatten: still held after {_FLAT_WITHIN_S:.0f} s: {left}")
        invocation.answer(
            body, f"flat: position 0 · state {body['state']} · resume with: qmtl resume --account {name}"
        )
        return
    from qmtl.trader.direct import flatten_directly

    report = act_directly(invocation, account, why or "flatten --direct", flatten_directly)
    closed = ", ".join(report.closed) or "nothing was held"
    text = f"flat at the venue: {closed} · {len(report.cancelled)} orders cancelled · next start is HALTED"
    invocation.answer(_dump(report), text)


async def _flatten_and_wait(client: "ControlClient", name: str, why: str) -> dict[str, Any]:
    await client.flatten(name, why)
    waited_s = 0.0
    while True:
        status = await client.status()
        if not status.get("positions") or waited_s >= _FLAT_WITHIN_S:
            return {"state": status.get("state"), "positions": status.get("positions") or []}
        await asyncio.sleep(0.2)
        waited_s += 0.2


def act_directly(invocation: Invocation, account: str | None, why: str, action: Action) -> "DirectReport":
    """Leave the halt marker, then act at the venue with the configured keys."""
    from qmtl.config import account_keys
    from qmtl.engine.backup import lock_path
    from qmtl.engine.clock import SystemClock
    from qmtl.engine.halt_marker import HaltMarker, write_marker
    from qmtl.engine.owner import AccountLock
    from qmtl.runtime.io.binance_futures import BinanceFuturesClient

    settings = invocation.load().settings
    keys = account_keys(settings)
    if keys is None:
        raise BadInputError(
            "account.key_file is missing (or account.api_key and secret): --direct needs the keys"
        )
    places = Places.of(settings)
    if account is not None and account != places.account:
        raise BadInputError(f"--account: found {account!r}; the configured keys are of {places.account!r}")
    # The marker comes first: a trader that a supervisor starts meanwhile must find it.
    marker = write_marker(places.journal, HaltMarker(who_asks(), why, now_ms()))
    invocation.note(f"wrote {marker}")
    holder = AccountLock(lock_path(places.journal)).holder
    if holder:
        invocation.note(f"warning: {holder} still owns the account; stop it, or it may trade on")

    async def run() -> "DirectReport":
        client = BinanceFuturesClient(
            *keys, settings.account.base_url, clock=SystemClock(), random=random.SystemRandom()
        )
        try:
            await client.sync_clock()
            return await action(client)
        except (TimeoutError, OSError) as error:
            raise CommandFailedError(f"{settings.account.base_url}: {one_line(error)}") from error
        finally:
            await client.aclose()

    return asyncio.run(run())


def _dump(report: "DirectReport") -> dict[str, Any]:
    import msgspec

    return {**msgspec.structs.asdict(report), "starts": "HALTED"}
