"""`replay`, `backup`, `restore` and `logs`: work on journals, running or not."""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import (
    BadInputError,
    CommandFailedError,
    Invocation,
    now_ms,
    refusing,
    stamp,
    who_asks,
)
from qmtl.cli.places import Places
from qmtl.cli.status_text import clock, explain
from qmtl.cli.time_range import parse_span

if TYPE_CHECKING:
    from qmtl.core.event import AnyEvent

Account = Annotated[
    str | None, typer.Option("--account", help="Account name, instead of the configured one.")
]
JournalFile = Annotated[Path, typer.Argument(help="A journal file.")]
_NOT_SHOWN = {"PriceUpdated", "MarkPriceUpdated", "BarClosed", "TimerFired"}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(replay)
    app.command()(backup)
    app.command()(restore)
    app.command()(logs)


def replay(
    ctx: typer.Context,
    journal: JournalFile,
    until: Annotated[int | None, typer.Option("--until", min=1, help="Stop after this record.")] = None,
) -> None:
    """Rebuild every state from a journal and print its hash; exit 3 on divergence."""
    from contextlib import closing

    from qmtl.core.money import dump_decimal
    from qmtl.engine.journal import JournalError, open_journal, read_events
    from qmtl.engine.loader import StrategyNotFoundError, load_strategy
    from qmtl.engine.replay import replay as rebuild
    from qmtl.engine.segments import first_snapshot

    invocation: Invocation = ctx.obj
    with refusing(JournalError, StrategyNotFoundError), closing(open_journal(journal)) as db:
        start = first_snapshot(db)
        first_seq = 0 if start is None else start[0]
        if until is not None and until < first_seq:
            raise BadInputError(f"--until {until}: {journal} keeps records from {first_seq + 1} on")
        records = read_events(db, journal, first_seq)
        replayed = rebuild(records, load_strategy, snapshot=start, until_seq=until)
    if replayed is None:
        raise BadInputError(f"{journal}: holds no session yet")
    engine = replayed.engine
    held = {p.symbol: str(p.quantity) for p in engine.account.positions.values() if p.quantity}
    body = {
        "journal": str(journal),
        "seq": replayed.seq,
        "inputs": replayed.inputs,
        "state_hash": engine.state_hash(),
        "state": str(engine.risk.state),
        "position": held,
        "wallet": dump_decimal(engine.account.wallet),
    }
    shown = ", ".join(f"{quantity} {symbol}" for symbol, quantity in held.items()) or "0"
    invocation.answer(
        body,
        f"{journal}: {replayed.inputs} events, {replayed.seq} records · position {shown}"
        f" · wallet {engine.account.wallet:,.2f}\nstate {body['state_hash']}",
    )


def backup(
    ctx: typer.Context,
    account: Account = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="This journal instead of the account's.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--to", help="Folder; default journal.backup_directory.")] = None,
) -> None:
    """Copy a journal, in use or not, with everything that belongs to it."""
    from qmtl.engine.backup import back_up, summarize
    from qmtl.engine.journal import JournalError

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    source = journal or Places.of(settings, account).journal
    with refusing(JournalError):
        summarize(source)
    folder = to or settings.journal.backup_directory or settings.journal.directory / "backups"
    path = back_up(source, folder, stamp=stamp(), keep=settings.journal.backup_keep)
    summary = summarize(path)
    body = {
        "backup": str(path),
        "journal": str(source),
        "records": summary.last_seq,
        "orders": summary.orders,
    }
    invocation.answer(body, f"{path}: {summary.last_seq:,} records, {summary.orders:,} orders")


def restore(
    ctx: typer.Context,
    backup: Annotated[Path, typer.Argument(help="A backup made by qmtl backup.")],
    account: Account = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="This journal instead of the account's.")
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", help="Folder to restore into, to prove a backup.")
    ] = None,
) -> None:
    """Put a backup in the journal's place; the next start begins HALTED and compares with the venue."""
    from qmtl.engine.backup import restore as put_back
    from qmtl.engine.backup import summarize
    from qmtl.engine.journal import JournalError

    invocation: Invocation = ctx.obj
    settings = invocation.load().settings
    with refusing(JournalError):
        name = account or summarize(backup).account or None
        target = journal or Places.of(settings, name).journal
        target = to / target.name if to is not None else target
        done = put_back(backup, target, who=who_asks(), now_ms=now_ms(), stamp=stamp())
    at = datetime.fromtimestamp(done.journal.last_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    lost = None if done.before is None else done.before.last_seq - done.journal.last_seq
    lost_orders = None if done.before is None else done.before.orders - done.journal.orders
    body = {
        "journal": str(target),
        "records": done.journal.last_seq,
        "orders": done.journal.orders,
        "until": at,
        "records_after_backup": lost,
        "orders_after_backup": lost_orders,
        "kept": None if done.kept is None else str(done.kept),
        "starts": "HALTED",
    }
    text = f"{target}: {done.journal.last_seq:,} records, {done.journal.orders:,} orders, until {at}"
    if lost is not None:
        text += (
            f"\nthe journal before had {lost:,} records and {lost_orders:,} orders more; kept as {done.kept}"
        )
    elif done.kept is not None:
        text += f"\nthe journal before could not be read; kept as {done.kept}"
    text += (
        "\nthe next start begins HALTED, with a new epoch, and prints what the venue knows and this does not"
    )
    invocation.answer(body, text)


def logs(
    ctx: typer.Context,
    order: Annotated[
        str | None, typer.Option("--order", help="Everything about one client order id.")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--last", help="Everything but prices of the last 10m, 1h, 2d.")
    ] = None,
    account: Account = None,
    journal: Annotated[
        Path | None, typer.Option("--journal", help="This journal instead of the account's.")
    ] = None,
) -> None:
    """Print what the journal knows about an order, or about the last while."""
    invocation: Invocation = ctx.obj
    if (order is None) == (last is None):
        raise BadInputError("give one of --order ID and --last SPAN")
    source = journal or Places.of(invocation.load().settings, account).journal
    found = (
        _about_order(source, order)
        if order is not None
        else _since(source, parse_span(last or "", "--last") * 1000)
    )
    if not found:
        wanted = f"order {order}" if order is not None else f"the last {last}"
        raise CommandFailedError(f"{source}: knows nothing about {wanted}")
    if invocation.is_json:
        invocation.answer({"journal": str(source), "records": found}, "")
        return
    for record in found:
        invocation.say(_line(record))
    if last is not None:
        reasons = Counter(r["reason"] for r in found if r["event"] == "DecisionMade")
        shown = " · ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons.most_common())
        invocation.say(f"{sum(reasons.values())} closes: {shown or '-'}")


def _about_order(path: Path, order: str) -> list[dict[str, Any]]:
    from qmtl.core.event import parse_event

    rows = _rows(path, "SELECT seq, body FROM records WHERE client_order_id = ? ORDER BY seq", order)
    return [_plain(seq, parse_event(body)) for seq, body in rows]


def _since(path: Path, span_ms: int) -> list[dict[str, Any]]:
    from qmtl.core.event import parse_event

    marks = ", ".join(f"'{name}'" for name in sorted(_NOT_SHOWN))
    query = (
        f"SELECT seq, body FROM records WHERE type NOT IN ({marks})"  # noqa: S608 - names of this file
        " AND ts_ms >= (SELECT max(ts_ms) FROM records) - ? ORDER BY seq"
    )
    return [_plain(seq, parse_event(body)) for seq, body in _rows(path, query, span_ms)]


def _rows(path: Path, query: str, value: str | int) -> list[tuple[int, bytes]]:
    from contextlib import closing

    from qmtl.engine.journal import JournalError, open_journal

    with refusing(JournalError), closing(open_journal(path)) as db:
        return list(db.execute(query, (value,)))


def _plain(seq: int, event: "AnyEvent") -> dict[str, Any]:
    from qmtl.engine.board import dump_line

    return {"seq": seq, **dump_line(event)}


def _line(record: dict[str, Any]) -> str:
    kind = record["event"]
    head = f"{clock(record['ts_ms'])} {record['seq']:>8} {kind}"
    if kind == "DecisionMade":
        return f"{head} {explain(record['reason'], record['gate'], record['numbers'] or {})}"
    rest = {
        k: v for k, v in record.items() if k not in {"seq", "ts_ms", "event", "setup"} and v not in ("", None)
    }
    intent = rest.pop("intent", None)
    if intent:
        rest |= {
            k: v
            for k, v in intent.items()
            if k in {"symbol", "side", "quantity", "type", "role", "why"} and v
        }
    return f"{head} " + " ".join(
        f"{key}={json.dumps(value) if isinstance(value, dict | list) else value}"
        for key, value in rest.items()
    )
