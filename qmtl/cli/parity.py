"""`qmtl parity`: what live decided and paid, beside a backtest of the same hours."""

from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qmtl.cli.invocation import DIVERGED, DONE, BadInputError, Invocation, refusing
from qmtl.cli.places import Places
from qmtl.cli.status_text import clock
from qmtl.cli.time_range import parse_span
from qmtl.core.money import dump_decimal

if TYPE_CHECKING:
    from qmtl.core.account import Account
    from qmtl.core.instrument import Instrument
    from qmtl.engine.parity import Decision, Parity
    from qmtl.engine.simulated_venue import SimulatedVenue
    from qmtl.engine.venue_models import SlippageModel
    from qmtl.runtime.sdk.backtest_terms import BacktestTerms

_SHOWN = 10
"""Differences told one by one; --json has all of them."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(parity)


def parity(
    ctx: typer.Context,
    last: Annotated[str, typer.Option("--last", help="The period: the last 1h, 24h, 7d.")] = "24h",
    journal: Annotated[
        Path | None, typer.Option("--journal", help="This journal instead of the account's.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", help="Account name, instead of the configured one.")
    ] = None,
) -> int:
    """Replay a live period through a backtest; exit 3 where decisions or fees differ."""
    from qmtl.engine.journal import JournalError, open_journal
    from qmtl.engine.loader import StrategyNotFoundError, load_strategy
    from qmtl.engine.parity import compare
    from qmtl.engine.parity_record import add_breaks
    from qmtl.engine.rerun import rerun
    from qmtl.runtime.sdk.trade_settings import find_terms

    invocation: Invocation = ctx.obj
    span_ms = parse_span(last, "--last") * 1000
    settings = invocation.load().settings
    own = Places.of(settings, account).journal
    source = journal or own
    terms = find_terms(settings)
    with refusing(JournalError, StrategyNotFoundError), closing(open_journal(source)) as db:
        found = rerun(
            db,
            source,
            load_strategy,
            _venues(terms),
            assumed=terms.models().slippage,
            span_ms=span_ms,
        )
    result = None if found is None else compare(found, terms.models().fees, terms.asset)
    if result is None or not result.decisions:
        raise BadInputError(f"{source}: no bar was decided live in the last {last} that it holds")
    if result.differences and source == own:
        # The trader of this journal tells it as qmtl_parity_breaks_total.
        with refusing(JournalError):
            add_breaks(own, len(result.differences))
    invocation.answer(dump_parity(str(source), result, terms), "\n".join(tell(result, terms)))
    return DONE if result.is_equal else DIVERGED


def _venues(terms: "BacktestTerms") -> Any:
    """Return what makes a venue of the terms that goes on from an account."""
    from msgspec.structs import replace

    from qmtl.engine.matching import MatchingCore
    from qmtl.engine.simulated_venue import SimulatedVenue

    def make(
        account: "Account", instruments: "dict[str, Instrument]", prices: "SlippageModel", number: int
    ) -> "SimulatedVenue":
        core = MatchingCore(
            instruments,
            models=replace(terms.models(), slippage=prices),
            account=account,
            margin_mode=terms.margin_mode,
            leverage=terms.leverage,
            first_order_id=number,
            first_trade_id=number,
        )
        return SimulatedVenue(core, fill=terms.fill)

    return make


def tell(result: "Parity", terms: "BacktestTerms") -> list[str]:
    """Return the comparison for people: one line where all is equal."""
    count = f"{result.fills:,} fill{'' if result.fills == 1 else 's'}"
    fills = count
    if result.slippage is not None:
        ticks = round(result.slippage, 1)
        fills += f" {ticks:+g} tick{'' if abs(ticks) <= 1 else 's'} (assumed {terms.slippage_ticks})"
    lines = [f"{result.equal:,}/{result.decisions:,} decisions equal · {fills}"]
    if result.slide is not None:
        lines.append(f"decisions {result.slide.words}: {result.slide.decisions:,}")
    if result.late_fills:
        lines.append(f"fills one bar late or more: {result.late_fills:,}")
    lines += [
        f"fees {_percent(one.rate)} where {_percent(one.assumed)} was assumed: {one.fills:,} of {count}"
        for one in result.fees
    ]
    if result.other_fees:
        lines.append(f"fees in another asset, not compared: {result.other_fees:,} of {count}")
    lines += [
        f"{clock(one.open_ms)} {one.symbol} live {_words(one.live)} · backtest {_words(one.again)}"
        for one in result.differences[:_SHOWN]
    ]
    if (more := len(result.differences) - _SHOWN) > 0:
        lines.append(f"and {more:,} more; --json tells all")
    return lines


def _percent(rate: Decimal) -> str:
    return f"{dump_decimal(rate * 100)} %"


def _words(decision: "Decision | None") -> str:
    if decision is None:
        return "nothing"
    intents = f" ({', '.join(decision.intents)})" if decision.intents else ""
    return decision.reason.replace("_", " ") + intents


def dump_parity(source: str, result: "Parity", terms: "BacktestTerms") -> dict[str, Any]:
    """Return the comparison as plain data."""
    import msgspec

    body: dict[str, Any] = msgspec.to_builtins(result)
    more = {"is_equal": result.is_equal, "assumed_ticks": terms.slippage_ticks}
    return {"journal": source, **body, **more}
