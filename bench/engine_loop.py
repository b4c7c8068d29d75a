"""Candles per second through the engine and the simulated venue, beside a bare Python loop.

Same strategy (the trader's rules in close form), same candles, memory journal, real order and fill events,
conservation checked at every fill. Both must make the same trades. As in every backtest of a strategy that
can tell its signals of a history at once, its bands are a table (`CloseForm.prepare`), made within the time
measured; stretches at which the table asks for nothing are folded in one step, with the same records, which
are written out when somebody reads the journal (docs/decisions/0013). Beside it stand the figure with every
record written out, and the one without a table, bar by bar as live.
"""

from collections.abc import Callable
from decimal import Decimal
from functools import partial

from bench.bare_loop import Trade
from bench.bare_loop import run as run_bare
from bench.measure import compare, machine, write
from bench.recorded import BTCUSDT, closed_events, load_bars
from qmtl.core.event import BarClosed, OrderFilled, SessionSetup, SessionStarted, Transferred
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.order import Side
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.venue_models import VenueModels
from qmtl.trader.close_form import CloseForm

CANDLES = 70_000
WALLET = Decimal(1_000_000)


def run_engine(
    events: list[BarClosed], *, is_prepared: bool = True, journal: MemoryJournal | None = None
) -> Engine:
    """Run the close form over `events`; return the engine with its journal."""
    strategy = CloseForm()
    if is_prepared:
        strategy.prepare(events)
    engine = Engine(strategy, journal or MemoryJournal())
    core = MatchingCore(
        {"BTCUSDT": BTCUSDT},
        models=VenueModels(fees=MakerTakerFeeModel(taker=Decimal("0.0004"))),
        first_wallet=WALLET,
    )
    backtest = Backtest(engine, SimulatedVenue(core, fill="close"))
    setup = SessionSetup(strategy="qmtl.trader.close_form:CloseForm", instruments=(BTCUSDT,))
    backtest.start(SessionStarted(0, "bench", "backtest", setup), Transferred(0, "USDT", WALLET))
    backtest.run(events)
    return engine


def run_and_write_out(events: list[BarClosed]) -> Engine:
    """Run, and have the whole journal written out."""
    journal = MemoryJournal()
    engine = run_engine(events, journal=journal)
    if not journal.events:
        raise AssertionError("nothing was recorded")
    return engine


def trades_of(engine: Engine, events: list[BarClosed]) -> list[Trade]:
    """Return the round trips of a run as the bare loop describes them."""
    rows = {event.ts_ms: row for row, event in enumerate(events)}
    journal = engine.journal
    fills = [event for _, event in journal.read() if isinstance(event, OrderFilled)]
    trades = []
    for opening, closing in zip(fills[::2], fills[1::2], strict=False):
        direction = 1 if opening.side is Side.BUY else -1
        entry, leave = float(opening.price), float(closing.price)
        profit = direction * (leave - entry) - float(opening.fee + closing.fee)
        trades.append(Trade(rows[opening.ts_ms], rows[closing.ts_ms], direction, entry, leave, profit))
    return trades


def check_equal(engine: Engine, events: list[BarClosed], closes: list[float]) -> tuple[int, float]:
    """Raise AssertionError unless engine and bare loop made the same trades; return count and profit."""
    ours, theirs = trades_of(engine, events), run_bare(closes)
    if [trade[:5] for trade in ours] != [trade[:5] for trade in theirs]:
        different = next(
            (pair for pair in zip(ours, theirs, strict=False) if pair[0][:5] != pair[1][:5]), None
        )
        message = f"{len(ours)} trades here, {len(theirs)} there; first difference: {different}"
        raise AssertionError(message)
    mine, bare = sum(trade.profit for trade in ours), sum(trade.profit for trade in theirs)
    if abs(mine - bare) > 1e-6 * max(1.0, abs(bare)):
        message = f"profit {mine} here, {bare} there"
        raise AssertionError(message)
    return len(ours), mine


def main() -> None:
    """Check the trades, then measure."""
    bars, source = load_bars(CANDLES)
    events, closes = closed_events(bars), [bar.close for bar in bars]
    count, profit = check_equal(run_engine(events), events, closes)
    print(machine(), source)
    print(f"{count} trades, {profit:,.2f} USDT after fees, equal in both")
    ways: dict[str, Callable[[], object]] = {
        "engine + simulated venue, close form": partial(run_engine, events),
        "the same, every record written out": partial(run_and_write_out, events),
        "the same, bands bar by bar": partial(run_engine, events, is_prepared=False),
    }
    figures = [
        compare(
            name,
            way,
            lambda: run_bare(closes),
            count=len(events),
            anchor_name="bare Python loop",
            unit="candles",
        )
        for name, way in ways.items()
    ]
    write("engine_loop", figures, {"source": source, "trades": count, "wanted_ratio": 1 / 9, "aim": 1 / 5})


if __name__ == "__main__":
    main()
