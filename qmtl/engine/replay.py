"""Rebuilding state from a journal: crash recovery, and the proof that nothing was decided differently."""

from collections.abc import Callable, Iterable, Iterator

import msgspec

from qmtl.core.command import Command
from qmtl.core.event import (
    INPUTS,
    AnyEvent,
    IntentRecorded,
    OrderReported,
    SessionSetup,
    SessionStarted,
    dump_event,
)
from qmtl.engine.engine import Engine
from qmtl.engine.journal import DivergenceError, JournalError, SqliteJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.state import parse_state
from qmtl.engine.strategy import StrategyPort

Build = Callable[[SessionSetup], StrategyPort]
"""Makes the strategy a session was started with."""


class Replayed(msgspec.Struct):
    """An engine rebuilt up to `seq`, and how much it read."""

    engine: Engine
    seq: int
    inputs: int
    records: int


class _Comparing:
    """A journal that writes nothing and demands that every decision equal the recorded one."""

    def __init__(self) -> None:
        self.epoch = ""
        self.expected: Iterator[tuple[int, AnyEvent]] = iter(())
        self.seq = 0
        self.records = 0
        self.is_input = False

    def next(self) -> tuple[int, AnyEvent] | None:
        return next(self.expected, None)

    def append(self, event: AnyEvent) -> None:
        if self.is_input:
            self.is_input = False
            return
        found = self.next()
        if found is None:
            # The journal was cut inside a group: what was decided after its last record is decided again.
            self.seq += 1
            return
        seq, recorded = found
        if recorded != event and dump_event(recorded) != dump_event(event):
            message = f"record {seq}: journal has {recorded}, replay made {event}"
            raise DivergenceError(message)
        self.seq = seq
        self.records += 1

    def extend(self, events: Iterable[AnyEvent]) -> None:
        for event in events:
            self.append(event)

    def commit(self) -> None:
        """Nothing is written."""

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """Nothing is kept."""
        del after_seq
        return iter(())

    def close(self) -> None:
        """Nothing is open."""


def replay(
    records: Iterable[tuple[int, AnyEvent]],
    build: Build,
    *,
    snapshot: tuple[int, bytes] | None = None,
    until_seq: int | None = None,
) -> Replayed | None:
    """Fold `records` (after the snapshot, if one is given); None when there is nothing to fold.

    Every recorded decision is compared with the one made now. Raises DivergenceError on the first that
    differs, and when the journal does not start with a session.
    """
    journal = _Comparing()
    journal.expected = _of_engine(records)
    engine: Engine | None = None
    if snapshot is not None:
        journal.seq, body = snapshot
        engine = restore_engine(body, journal, build)
    inputs = 0
    while (found := journal.next()) is not None:
        seq, event = found
        if until_seq is not None and seq > until_seq:
            break
        if not isinstance(event, INPUTS):
            message = f"record {seq}: journal has {event}, replay made nothing"
            raise DivergenceError(message)
        if engine is None:
            if not isinstance(event, SessionStarted):
                message = f"record {seq}: a journal starts with a session, not with {type(event).__name__}"
                raise DivergenceError(message)
            engine = Engine(build(event.setup), journal)
        journal.seq = seq
        journal.is_input = True
        if isinstance(event, SessionStarted):
            begin_session(engine, event, build)
        else:
            engine.process(event)
        inputs += 1
    if engine is None:
        return None
    return Replayed(engine, journal.seq, inputs, journal.records)


def begin_session(engine: Engine, event: SessionStarted, build: Build) -> tuple[Command, ...]:
    """Process a session's start; a strategy with other parameters than before starts fresh."""
    before = engine.state.setup
    after = event.setup
    if before is not None and (before.strategy, before.params) != (after.strategy, after.params):
        engine.use_strategy(build(after))
        # The new strategy has seen nothing: its warm-up may go over bars the old one knew.
        engine.state.last_bar_ms.clear()
        engine.state.notes.clear()
    return engine.process(event)


def recover(journal: SqliteJournal, build: Build) -> Engine | None:
    """Rebuild the engine a journal describes, attached to it; None when the journal is empty.

    Raises DivergenceError when this program decides otherwise than the one that wrote the journal since
    its last snapshot.
    """
    snapshot = journal.snapshot()
    after_seq = 0 if snapshot is None else snapshot[0]
    replayed = replay(journal.read(after_seq), build, snapshot=snapshot)
    if replayed is None:
        return None
    replayed.engine.attach(journal)
    return replayed.engine


def _of_engine(records: Iterable[tuple[int, AnyEvent]]) -> Iterator[tuple[int, AnyEvent]]:
    """Leave out what broker clients recorded beside the engine: it never saw it."""
    for seq, event in records:
        is_clients = isinstance(event, OrderReported) or (isinstance(event, IntentRecorded) and event.body)
        if not is_clients:
            yield seq, event


def restore_engine(body: bytes, journal: EventJournal, build: Build) -> Engine:
    """Return the engine of a snapshot, writing to `journal`; JournalError when the snapshot is damaged."""
    try:
        setup = parse_state(body).setup
    except msgspec.DecodeError as error:
        raise JournalError(f"the snapshot cannot be read: {error}") from error
    if setup is None:
        message = "the snapshot was taken before any session"
        raise DivergenceError(message)
    engine = Engine(build(setup), journal)
    engine.restore(body)
    return engine
