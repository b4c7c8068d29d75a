"""A live period once more as a backtest: its recorded inputs, the strategy's own orders, simulated fills."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

from qmtl.core.account import Account
from qmtl.core.event import (
    INPUTS,
    MARKET,
    AccountReconciled,
    AnyEvent,
    BarClosed,
    ClockChecked,
    DecisionMade,
    EntriesPaused,
    FeedStateChanged,
    FlattenRequested,
    IntentRecorded,
    LimitSet,
    MarkPriceUpdated,
    OrderFilled,
    PriceUpdated,
    SessionStarted,
    TimerFired,
    TradingStateSet,
    Transferred,
    parse_event,
)
from qmtl.core.instrument import Instrument
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.journal import read_events
from qmtl.engine.replay import Build, begin_session, restore_engine
from qmtl.engine.segments import first_snapshot
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.engine.venue_models import SlippageModel

_GIVEN = (
    BarClosed,
    PriceUpdated,
    MarkPriceUpdated,
    FeedStateChanged,
    ClockChecked,
    TimerFired,
    TradingStateSet,
    LimitSet,
    FlattenRequested,
    EntriesPaused,
)
"""What the world and people did; what the venue answered is simulated."""

_TOLD = (
    "SELECT seq, body FROM records WHERE seq > ?"
    " AND type IN ('DecisionMade', 'IntentRecorded', 'OrderFilled') ORDER BY seq"
)
_FINE = Decimal("0.0001")
_USUAL_MS = 60_000
_LATE_TIMER_S = 1.0
"""A live timer fires late by less than this; the recorded one is waited for."""

_SAME_FILL_S = 10.0
"""Real seconds, and at most a quarter of a bar, between a live fill and the same one in a backtest."""

MakeVenue = Callable[[Account, dict[str, Instrument], SlippageModel, int], SimulatedVenue]
"""Makes a venue that goes on from an account, its next order and trade having a number."""


@dataclass
class TakenPrice:
    """What the taking fills of one order came to: base units and quote value, first seen at `ts_ms`."""

    ts_ms: int
    quantity: Decimal = Decimal(0)
    value: Decimal = Decimal(0)
    is_used: bool = False


class RecordedPrices:
    """Takers pay what the live order paid where there was one, else what `assumed` says.

    So that positions, and with them stops and exits, are where they really were, and `ticks` tells how far
    from the market price each of those fills was: positive is worse. A live order counts as the same when
    it filled on the same side less than `reach_ms` away.
    """

    def __init__(self, fills: Iterable[OrderFilled], assumed: SlippageModel) -> None:
        """Take the recorded fills; `now_ms` and `reach_ms` are told by whoever drives the venue."""
        self.now_ms = 0
        self.reach_ms = 0.0
        self.ticks: list[float] = []
        self._assumed = assumed
        orders: dict[str, TakenPrice] = {}
        self._sides: dict[tuple[str, bool], list[TakenPrice]] = {}
        for fill in fills:
            if fill.is_maker:
                continue
            taken = orders.get(fill.client_order_id)
            if taken is None:
                taken = orders[fill.client_order_id] = TakenPrice(fill.ts_ms)
                self._sides.setdefault((fill.symbol, fill.side == "BUY"), []).append(taken)
            taken.quantity += fill.quantity
            taken.value += fill.quantity * fill.price

    def slip(
        self, price: Decimal, *, is_buy: bool, quantity: Decimal, volume: float, instrument: Instrument
    ) -> Decimal:
        """See SlippageModel."""
        near = [
            taken
            for taken in self._sides.get((instrument.symbol, is_buy), ())
            if not taken.is_used and abs(taken.ts_ms - self.now_ms) < self.reach_ms
        ]
        if not near:
            return self._assumed.slip(
                price, is_buy=is_buy, quantity=quantity, volume=volume, instrument=instrument
            )
        taken = min(near, key=lambda one: abs(one.ts_ms - self.now_ms))
        taken.is_used = True
        # An average of several fills may not end; finer than the tick is fine enough.
        paid = (taken.value / taken.quantity).quantize(instrument.tick_size * _FINE)
        worse = paid - price if is_buy else price - paid
        self.ticks.append(float(worse / instrument.tick_size))
        return paid

    def describe(self) -> str:
        """See SlippageModel."""
        return f"prices of the live fills, else {self._assumed.describe()}"


class _Sink:
    """A journal that keeps what the engine decided, from the moment it is told to."""

    epoch = ""

    def __init__(self) -> None:
        self.is_on = False
        self.events: list[AnyEvent] = []

    def append(self, event: AnyEvent) -> None:
        # A year of price updates must not lie in memory twice.
        if self.is_on and not isinstance(event, MARKET):
            self.events.append(event)

    def extend(self, events: Iterable[AnyEvent]) -> None:
        for event in events:
            self.append(event)

    def commit(self) -> None:
        """Nothing is written."""

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """Nothing is read back."""
        del after_seq
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Rerun:
    """One period as recorded and as a backtest had it.

    `live` are the recorded decisions, intents and fills, `again` what the backtest recorded, both in order;
    `ticks` says how far from the market price each live fill was that both had. The period is
    (`begin_ms`, `end_ms`], its bars `interval_ms` long.
    """

    begin_ms: int
    end_ms: int
    interval_ms: int = _USUAL_MS
    live: list[AnyEvent] = field(default_factory=list)
    again: list[AnyEvent] = field(default_factory=list)
    ticks: list[float] = field(default_factory=list)


def rerun(
    db: sqlite3.Connection,
    path: Path,
    build: Build,
    make_venue: MakeVenue,
    *,
    assumed: SlippageModel,
    span_ms: int,
) -> Rerun | None:
    """Run the last `span_ms` of the journal `db` at `path` again; None when nothing was decided live in it.

    What came before the period is folded as it was recorded, so the backtest begins with the positions and
    orders of that moment. Raises JournalError when a record or segment is damaged.
    """
    query = "SELECT max(ts_ms) FROM records WHERE type = 'DecisionMade'"
    (end_ms,) = db.execute(query).fetchone()
    if end_ms is None:
        return None
    found = Rerun(end_ms - span_ms, end_ms)
    start = _find_start(db, found.begin_ms)
    after_seq = 0 if start is None else start[0]
    rows = db.execute(_TOLD, (after_seq,))
    told = list(_once((seq, parse_event(body)) for seq, body in rows))
    fills = [event for _, event in told if isinstance(event, OrderFilled)]
    found.interval_ms = _find_interval(event for _, event in told)
    prices = RecordedPrices(fills, assumed)
    again = _Again(build, make_venue, prices, found)
    if start is not None:
        again.engine = restore_engine(start[1], again.sink, build)
    for seq, event in read_events(db, path, after_seq):
        again.take(seq, event)
    if again.handover_seq is None:
        return None
    found.live = [event for seq, event in told if seq > again.handover_seq]
    found.again, found.ticks = again.sink.events, prices.ticks
    return found


def _find_start(db: sqlite3.Connection, begin_ms: int) -> tuple[int, bytes] | None:
    """Return the newest snapshot from before the period, else the one that a replay has to start from."""
    row = db.execute(
        "SELECT seq, body FROM snapshots WHERE ts_ms <= ? ORDER BY seq DESC LIMIT 1", (begin_ms,)
    ).fetchone()
    return first_snapshot(db) if row is None else (row[0], row[1])


def _find_interval(told: Iterable[AnyEvent]) -> int:
    """Return the length of a bar: the least time between two that were decided."""
    opened = sorted({event.open_ms for event in told if isinstance(event, DecisionMade)})
    return min((after - before for before, after in pairwise(opened)), default=_USUAL_MS)


def _once(told: Iterable[tuple[int, AnyEvent]]) -> Iterator[tuple[int, AnyEvent]]:
    """Yield what the engine was told, a fill that a venue tells again after a reconnect only once."""
    known: set[tuple[str, str]] = set()
    for seq, event in told:
        if isinstance(event, OrderFilled):
            key = (event.client_order_id, event.trade_id)
            if key in known:
                continue
            known.add(key)
        if not _is_clients(event):
            yield seq, event


def _is_clients(event: AnyEvent) -> bool:
    """Tell whether a broker client recorded it beside the engine."""
    return isinstance(event, IntentRecorded) and bool(event.body)


class _Again:
    """Folds what came before the period as recorded, then drives a simulated venue."""

    def __init__(self, build: Build, make_venue: MakeVenue, prices: RecordedPrices, period: Rerun) -> None:
        self.sink = _Sink()
        self.engine: Engine | None = None
        self.handover_seq: int | None = None
        self._build, self._make_venue, self._prices = build, make_venue, prices
        self._begin_ms, self._interval_ms = period.begin_ms, period.interval_ms

    def take(self, seq: int, event: AnyEvent) -> None:
        """Take the next record."""
        engine = self.engine
        if engine is None:
            if isinstance(event, SessionStarted):
                self.engine = engine = Engine(self._build(event.setup), self.sink)
                begin_session(engine, event, self._build)
            return
        if self.handover_seq is None and self._is_begun(engine, event):
            self.handover_seq = seq - 1
            self.sink.is_on = True
            self._use_venue(engine, seq)
        if self.handover_seq is not None:
            self._prices.now_ms = event.ts_ms
            self._drive(engine, seq, event)
        elif isinstance(event, SessionStarted):
            begin_session(engine, event, self._build)
        elif isinstance(event, INPUTS):
            engine.process(event)

    def _is_begun(self, engine: Engine, event: AnyEvent) -> bool:
        is_late = isinstance(event, BarClosed) and (event.warmup or event.refilled)
        is_live = isinstance(event, MARKET) and not is_late and event.ts_ms > self._begin_ms
        return is_live and engine.state.has_account

    def _use_venue(self, engine: Engine, seq: int) -> None:
        """Go on where the engine stands, as a dry run does when it starts again."""
        venue = self._make_venue(deepcopy(engine.account), dict(engine.risk.instruments), self._prices, seq)
        venue.restore(engine.orders.open())
        second_ms = 1000 * engine.risk.speed
        self._prices.reach_ms = min(_SAME_FILL_S * second_ms, self._interval_ms / 4)
        self._venue = venue
        self._driver = Backtest(engine, venue, grace_ms=int(_LATE_TIMER_S * second_ms))

    def _drive(self, engine: Engine, seq: int, event: AnyEvent) -> None:
        if isinstance(event, SessionStarted):
            begin_session(engine, event, self._build)
            self._use_venue(engine, seq)
        elif isinstance(event, _GIVEN):
            self._driver.run((event,))
        elif isinstance(event, AccountReconciled):
            # Entries wait for the comparison, which the simulated account passes at the same moment.
            self._driver.run((self._venue.account(event.ts_ms),))
        elif isinstance(event, Transferred):
            before = engine.account.wallet
            self._driver.run((event,))
            if moved := engine.account.wallet - before:
                self._venue.core.account.transfer(moved)
