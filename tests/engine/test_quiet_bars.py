"""Records of quiet bars: the same wherever they are written, and made when somebody looks."""

from collections.abc import Iterator

import pytest

from qmtl.core import event as ev
from qmtl.core.reason import Reason
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.quiet_bars import QuietBars
from tests.engine.test_journal_port import bar


class Counted:
    """Numbers of three bars, and how often somebody asked for them."""

    def __init__(self) -> None:
        self.asked = 0

    def __iter__(self) -> Iterator[dict[str, float] | None]:
        self.asked += 1
        return iter([{"close": 1.0}, {"close": 2.0}, None])


BARS = [bar(60_000), bar(120_000), bar(180_000)]
RECORDS: list[ev.AnyEvent] = [
    BARS[0],
    ev.DecisionMade(60_000, "BTCUSDT", 60_000, Reason.HOLDING, "", {"close": 1.0}),
    BARS[1],
    ev.DecisionMade(120_000, "BTCUSDT", 120_000, Reason.HOLDING, "", {"close": 2.0}),
    BARS[2],
    ev.DecisionMade(180_000, "BTCUSDT", 180_000, Reason.HOLDING, "", None),
]


def stretch(numbers: Counted | None = None) -> QuietBars:
    return QuietBars(BARS, Reason.HOLDING, "", numbers or Counted())


def test_a_stretch_is_each_bar_and_then_its_reason() -> None:
    assert list(stretch()) == RECORDS
    assert stretch().bars == BARS


def test_every_journal_numbers_a_stretch_as_the_records_it_is(journal: EventJournal) -> None:
    journal.append(ev.TimerFired(1))
    journal.extend(stretch())
    journal.append(ev.TimerFired(2))
    journal.extend(stretch())
    journal.commit()
    events = [ev.TimerFired(1), *RECORDS, ev.TimerFired(2), *RECORDS]
    assert list(journal.read()) == list(enumerate(events, 1))
    assert [seq for seq, _ in journal.read(7)] == list(range(8, 15))


def test_memory_asks_for_numbers_at_the_first_look_and_once() -> None:
    numbers, memory = Counted(), MemoryJournal()
    memory.extend(stretch(numbers))
    assert numbers.asked == 0
    assert memory.events == RECORDS
    assert list(memory.read(5)) == [(6, RECORDS[5])]
    assert numbers.asked == 1


def test_what_is_appended_after_a_look_follows_it() -> None:
    memory = MemoryJournal()
    append = memory.append
    memory.extend(stretch())
    assert memory.events == RECORDS
    append(ev.TimerFired(4))
    memory.extend(stretch())
    memory.extend(stretch())
    append(ev.TimerFired(5))
    assert memory.events == [*RECORDS, ev.TimerFired(4), *RECORDS, *RECORDS, ev.TimerFired(5)]


def test_what_is_written_never_holds_a_stretch() -> None:
    memory = MemoryJournal()
    before = memory.events
    memory.append(ev.TimerFired(1))
    memory.extend(stretch())
    memory.append(ev.TimerFired(2))
    assert before == memory.written == [ev.TimerFired(1), ev.TimerFired(2)]
    assert [len(one.bars) for one in memory.quiet] == [3]
    assert memory.events == [ev.TimerFired(1), *RECORDS, ev.TimerFired(2)]
    assert memory.quiet == []


def test_a_look_writes_out_only_what_is_new() -> None:
    """Otherwise a reader that follows a run would cost the square of its length."""
    numbers, memory = [Counted() for _ in range(50)], MemoryJournal()
    seen = 0
    for one in numbers:
        memory.extend(stretch(one))
        seen += len(list(memory.read(seen)))
    assert seen == len(memory.events) == 50 * len(RECORDS)
    assert [one.asked for one in numbers] == [1] * 50


def test_numbers_for_fewer_bars_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="extended slice"):
        list(QuietBars(BARS, Reason.HOLDING, "", [{"close": 1.0}]))
