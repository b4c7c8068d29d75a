"""Replay rebuilds every state, and names the first record that would be decided otherwise."""

from collections.abc import Mapping
from decimal import Decimal as D
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qmtl.core import event as ev
from qmtl.core.order import Role, Side
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.journal import DivergenceError, JournalError, SqliteJournal
from qmtl.engine.matching import MatchingCore
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.replay import begin_session, recover, replay
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.strategy import Context, SilentStrategy, StrategyPort
from tests.engine.rig import MINUTE, instrument, intent


class Swinger(SilentStrategy):
    """Buys below its mean of closes, sells above; counts ticks, remembers fills: state of every kind."""

    name = "swinger"

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.window = int(params.get("window", 5))
        self.closes: list[float] = []
        self.ticks = 0
        self.fills: dict[str, str] = {}

    @property
    def is_warm(self) -> bool:
        return len(self.closes) >= self.window

    def on_price(self, ctx: Context, update: ev.PriceUpdated) -> None:
        self.ticks += 1
        self._act(ctx, update.close)

    def on_bar(self, ctx: Context, bar: ev.BarClosed) -> None:
        self._act(ctx, bar.close)
        self.closes = [*self.closes, bar.close][-self.window :]

    def on_fill(self, ctx: Context, fill: ev.OrderFilled, order: Any) -> None:
        self.fills = {fill.trade_id: str(fill.price)}

    def on_timer(self, ctx: Context) -> None:
        for order in ctx.orders:
            ctx.cancel(order)

    def _act(self, ctx: Context, price: float) -> None:
        if not self.is_warm or ctx.orders:
            return
        mean = sum(self.closes) / len(self.closes)
        ctx.note({"price": price, "mean": mean})
        held = ctx.position("BTCUSDT").quantity
        if not held and price < mean:
            ctx.submit(intent(Side.BUY, "0.01", limit=str(price)))
            ctx.wake_in(20)
        elif held and price > mean:
            ctx.submit(intent(Side.SELL, str(held), reduce_only=True, role=Role.EXIT))

    def dump_state(self) -> dict[str, Any]:
        return {"closes": self.closes, "ticks": self.ticks, "fills": self.fills}

    def load_state(self, state: Any) -> None:
        self.closes, self.ticks, self.fills = list(state["closes"]), state["ticks"], dict(state["fills"])


def build(setup: ev.SessionSetup) -> StrategyPort:
    return Swinger(setup.params)


def setup(**params: int) -> ev.SessionSetup:
    return ev.SessionSetup(
        strategy="swinger", params=dict(params), instruments=(instrument(),), catastrophe_stop=D("0.02")
    )


def market(bars: int, start: int = 0) -> list[ev.AnyEvent]:
    """A seeded walk as four updates and a close a minute."""
    events: list[ev.AnyEvent] = []
    state = 12345 + start
    price = 60_000.0
    for number in range(start, start + bars):
        open_ms = number * MINUTE
        for second in (0, 15_000, 30_000, 59_998):
            state = (state * 1103515245 + 12345) % 2**31
            price = round(price + (state / 2**31 - 0.5) * 60, 1)
            events.append(
                ev.PriceUpdated(open_ms + second, "BTCUSDT", open_ms, price, price, price, price, 1.0)
            )
        events.append(ev.BarClosed(open_ms + 59_999, "BTCUSDT", open_ms, price, price, price, price, 4.0))
    return events


def run(journal: EventJournal, bars: int = 300, *, snapshot_at: int | None = None) -> Engine:
    session = ev.SessionStarted(0, journal.epoch, "dryrun", setup())
    engine = Engine(build(session.setup), journal)
    driver = Backtest(engine, SimulatedVenue(MatchingCore({"BTCUSDT": instrument()})))
    driver.start(session, ev.Transferred(0, "USDT", D(10_000)))
    for number, event in enumerate(market(bars)):
        driver.run([event])
        if number == snapshot_at:
            assert isinstance(journal, SqliteJournal)
            journal.store_snapshot(engine.snapshot(), engine.state_hash(), event.ts_ms)
    return engine


def test_replay_gives_the_identical_state_and_makes_every_decision_again() -> None:
    journal = MemoryJournal()
    engine = run(journal)
    replayed = replay(journal.read(), build)
    assert replayed is not None
    assert replayed.engine.state_hash() == engine.state_hash()
    assert replayed.seq == len(journal.events)
    assert replayed.inputs + replayed.records == len(journal.events)
    trades = [event for event in journal.events if isinstance(event, ev.OrderFilled)]
    assert len(trades) > 20
    assert len([event for event in journal.events if isinstance(event, ev.TimerFired)]) > 5


def test_the_strategy_of_both_faces_is_as_before() -> None:
    journal = MemoryJournal()
    engine = run(journal)
    replayed = replay(journal.read(), build)
    assert replayed is not None
    assert replayed.engine.strategy.dump_state() == engine.strategy.dump_state()
    assert engine.strategy.dump_state()["ticks"] == 1200


@pytest.mark.parametrize("snapshot_at", [0, 3, 777, 778, 779, 780, 781, 1498])
def test_a_snapshot_and_the_tail_give_the_state_of_the_whole(tmp_path: Path, snapshot_at: int) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    engine = run(journal, snapshot_at=snapshot_at)
    journal.seal(1)
    recovered = recover(journal, build)
    assert recovered is not None
    assert recovered.state_hash() == engine.state_hash()
    whole = replay(journal.read(), build)
    assert whole is not None
    assert whole.engine.state_hash() == engine.state_hash()
    journal.close()


def test_a_recovered_engine_goes_on_in_its_journal_like_the_one_before(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    engine = run(journal, snapshot_at=500)
    recovered = recover(journal, build)
    assert recovered is not None
    seq = journal.seq
    for event in market(20, start=300):
        engine.attach(MemoryJournal())
        assert [type(c) for c in recovered.process(event)] == [type(c) for c in engine.process(event)]
    assert recovered.state_hash() == engine.state_hash()
    assert journal.seq > seq + 100
    journal.close()


def plant(events: list[ev.AnyEvent], kind: type[Any], **changes: Any) -> int:
    """Change one record in the middle; return its number."""
    places = [number for number, event in enumerate(events) if isinstance(event, kind)]
    place = places[len(places) // 2]
    events[place] = msgspec.structs.replace(events[place], **changes)
    return place + 1


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ev.DecisionMade, {"gate": "planted"}),
        (ev.DecisionMade, {"numbers": {"mean": 1.0}}),
        (ev.IntentRecorded, {"client_order_id": "q" + "a" * 26}),
        (ev.IntentRecorded, {"ordinal": 99_999}),
    ],
)
def test_a_planted_divergence_is_named_by_its_number(kind: type[Any], changes: dict[str, Any]) -> None:
    journal = MemoryJournal()
    run(journal, 60)
    seq = plant(journal.events, kind, **changes)
    with pytest.raises(DivergenceError, match=f"^record {seq}: "):
        replay(journal.read(), build)


def test_a_decision_more_and_a_decision_less_are_divergences() -> None:
    journal = MemoryJournal()
    run(journal, 60)
    decisions = [n for n, event in enumerate(journal.events) if isinstance(event, ev.DecisionMade)]
    less = [*journal.events[: decisions[30]], *journal.events[decisions[30] + 1 :]]
    with pytest.raises(DivergenceError, match=f"^record {decisions[30] + 1}: "):
        replay(enumerate(less, 1), build)
    more = [*journal.events[: decisions[30]], journal.events[decisions[30]], *journal.events[decisions[30] :]]
    with pytest.raises(DivergenceError, match="replay made nothing"):
        replay(enumerate(more, 1), build)


def test_a_changed_input_shows_at_the_first_decision_it_changes() -> None:
    journal = MemoryJournal()
    run(journal, 60)
    seq = plant(journal.events, ev.BarClosed, close=30_000.0)
    with pytest.raises(DivergenceError) as error:
        replay(journal.read(), build)
    assert int(str(error.value).split(":")[0].removeprefix("record ")) > seq


def test_until_stops_there_and_an_empty_journal_is_nothing() -> None:
    journal = MemoryJournal()
    run(journal, 30)
    replayed = replay(journal.read(), build, until_seq=50)
    assert replayed is not None
    assert 50 <= replayed.seq < 55
    assert replay([], build) is None


def test_a_journal_must_start_with_a_session() -> None:
    with pytest.raises(DivergenceError, match="record 1: a journal starts with a session"):
        replay([(1, ev.TimerFired(1))], build)


def test_an_unreadable_snapshot_is_one_line(tmp_path: Path) -> None:
    journal = SqliteJournal(tmp_path / "a.db", "e")
    run(journal, 5)
    journal.store_snapshot(b"\xc1rubbish", "hash", 1)
    with pytest.raises(JournalError, match="snapshot cannot be read"):
        recover(journal, build)
    journal.close()


def test_other_parameters_start_a_fresh_strategy_that_may_warm_up_again() -> None:
    journal = MemoryJournal()
    engine = run(journal, 60)
    again = market(30, start=30)
    bars = [event for event in again if isinstance(event, ev.BarClosed)]
    begin_session(engine, ev.SessionStarted(60 * MINUTE, "two", "dryrun", setup(window=7)), build)
    warm = [engine.strategy.is_warm]
    for bar in bars:
        engine.process(msgspec.structs.replace(bar, warmup=True))
    warm.append(engine.strategy.is_warm)
    assert warm == [False, True]
    engine.process(ev.TimerFired(61 * MINUTE))
    assert not [event for event in journal.events if isinstance(event, ev.ErrorRecorded)]
    replayed = replay(journal.read(), build)
    assert replayed is not None
    assert replayed.engine.state_hash() == engine.state_hash()


def test_equal_parameters_keep_the_strategy() -> None:
    engine = run(MemoryJournal(), 60)
    before = engine.strategy
    begin_session(engine, ev.SessionStarted(60 * MINUTE, "two", "dryrun", setup()), build)
    assert engine.strategy is before
