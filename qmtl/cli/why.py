"""`qmtl why`: what the strategy did at each closed bar, or why it did nothing."""

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import BadInputError, CommandFailedError, Invocation, refusing
from qmtl.cli.places import Places
from qmtl.cli.status_text import clock, explain, price
from qmtl.cli.time_range import parse_moment, parse_span

if TYPE_CHECKING:
    from qmtl.core.event import DecisionMade

_TALKATIVE = 20
"""Up to so many bars are told one by one, of more only those at which something was done or refused."""
_QUIET = {"no_signal", "holding", "warming_up", "refilled", "not_trading"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(why)


def why(
    ctx: typer.Context,
    last: Annotated[str | None, typer.Option("--last", help="The bars of the last 10m, 1h, 2d.")] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="The bar that was forming at this time, UTC.")
    ] = None,
    order: Annotated[str | None, typer.Option("--order", help="The bar that led to this order.")] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Account name, instead of the configured one.")
    ] = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="This journal instead of the account's.")
    ] = None,
) -> None:
    """Tell the one recorded reason of each closed bar from the journal; of the last hour if not told."""
    invocation: Invocation = ctx.obj
    if sum(option is not None for option in (last, at, order)) > 1:
        raise BadInputError("give one of --last, --at and --order")
    source = journal or Places.of(invocation.load().settings, account).journal
    intent: dict[str, Any] | None = None
    if order is not None:
        intent = find_intent(source, order)
        found = find_bar(source, intent["symbol"], intent["bar_ms"])
    elif at is not None:
        found = find_bar(source, None, parse_moment(at, "--at") * 1000)
    else:
        found = find_last(source, parse_span(last or "1h", "--last") * 1000)
    if not found and intent is None:
        raise CommandFailedError(f"{source}: no closed bar {f'at {at}' if at else 'yet'}")
    body = {
        "journal": str(source),
        "order": intent,
        "bars": [dump_bar(one) for one in found],
        "reasons": dict(Counter(one.reason for one in found)),
    }
    invocation.answer(body, "\n".join(tell(found, intent)))


def tell(found: "list[DecisionMade]", intent: dict[str, Any] | None) -> list[str]:
    """Return the reasons for people."""
    lines = []
    if intent is not None:
        size = f"{intent['role']} {intent['side']} {intent['quantity']} {intent['symbol']}"
        near = intent["limit_price"] or intent["stop_price"]
        where = f" @ {price(near)}" if near else ""
        lines.append(f"{clock(intent['ts_ms'])} {size}{where}: {intent['why'] or 'no words recorded'}")
    shown = found if len(found) <= _TALKATIVE else [one for one in found if one.reason not in _QUIET]
    for one in shown:
        words = explain(one.reason, one.gate, one.numbers or {})
        lines.append(f"{clock(one.ts_ms)} {one.symbol} {words}{f' · {one.why}' if one.why else ''}")
    if intent is None and len(found) > 1:
        counts = Counter((one.reason, one.gate if one.reason == "refused" else "") for one in found)
        parts = [
            f"{count:,} {reason.replace('_', ' ')}{f' ({gate})' if gate else ''}"
            for (reason, gate), count in counts.most_common()
        ]
        lines.append(f"{len(found):,} closes: {' · '.join(parts)}")
    return lines


def dump_bar(one: "DecisionMade") -> dict[str, Any]:
    """Return one bar's reason as plain data."""
    return {
        "ts_ms": one.ts_ms,
        "symbol": one.symbol,
        "open_ms": one.open_ms,
        "reason": str(one.reason),
        "gate": one.gate,
        "numbers": one.numbers,
        "why": one.why,
    }


# --- the journal -----------------------------------------------------------------------------------


def find_last(path: Path, span_ms: int) -> "list[DecisionMade]":
    """Return the decisions of the last `span_ms` of the journal's own time."""
    newest = "(SELECT max(ts_ms) FROM records WHERE type = 'DecisionMade')"
    return _decisions(path, f"ts_ms > {newest} - ?", (span_ms,), "seq")


def find_bar(path: Path, symbol: str | None, moment_ms: int) -> "list[DecisionMade]":
    """Return the decisions about the bar that opened last by `moment_ms`, of every symbol or of one."""
    found = _decisions(path, "ts_ms >= ?", (moment_ms,), "ts_ms, seq", limit=50)
    found = [one for one in found if one.open_ms <= moment_ms and symbol in {None, one.symbol}]
    first = min((one.open_ms for one in found), default=0)
    return [one for one in found if one.open_ms == first]


def _decisions(
    path: Path, where: str, values: tuple[int, ...], order: str, limit: int = -1
) -> "list[DecisionMade]":
    from qmtl.core.event import DecisionMade, parse_event
    from qmtl.engine.journal import JournalError, open_journal

    query = f"SELECT body FROM records WHERE type = 'DecisionMade' AND {where} ORDER BY {order} LIMIT ?"  # noqa: S608
    with refusing(JournalError), closing(open_journal(path)) as db:
        events = [parse_event(body) for (body,) in db.execute(query, (*values, limit))]
    return [event for event in events if isinstance(event, DecisionMade)]


def find_intent(path: Path, order: str) -> dict[str, Any]:
    """Return what was wanted of an order; CommandFailedError when the journal does not know it."""
    from qmtl.core.event import IntentRecorded, parse_event
    from qmtl.engine.journal import JournalError, open_journal

    query = "SELECT body FROM records WHERE type = 'IntentRecorded' AND client_order_id = ?"
    with refusing(JournalError), closing(open_journal(path)) as db:
        row = db.execute(query, (order,)).fetchone()
    event = None if row is None else parse_event(row[0])
    if not isinstance(event, IntentRecorded):
        raise CommandFailedError(f"{path}: knows nothing about order {order}")
    intent = event.intent
    return {
        "client_order_id": order,
        "ts_ms": event.ts_ms,
        "symbol": intent.symbol,
        "side": str(intent.side),
        "quantity": str(intent.quantity),
        "role": str(intent.role),
        "limit_price": None if intent.limit_price is None else str(intent.limit_price),
        "stop_price": None if intent.stop_price is None else str(intent.stop_price),
        "why": intent.why,
        "bar_ms": intent.bar_ms,
    }
