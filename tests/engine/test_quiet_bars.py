"""Records of quiet bars: the same wherever they are written, and made when somebody looks."""

from collections.abc import Iterator

import pytest

from qmtl.core import event as ev
from qmtl.core.reason import Reason
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.quiet_bars import QuietBars
from tests.engine.test_journal_port import bar, journal  # noqa: F401 - a fixture


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
    assert stretch().bars == len(BARS)


def test_every_journal_numbers_a_stretch_as_the_records_it_is(journal: EventJournal) -> None:  # noqa: F811
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
    kept = memory.events
    append(ev.TimerFired(4))
    memory.extend(stretch())
    assert memory.events == [*RECORDS, ev.TimerFired(4), *RECORDS]
    assert memory.events is kept


def test_numbers_for_fewer_bars_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="extended slice"):
        list(QuietBars(BARS, Reason.HOLDING, "", [{"close": 1.0}]))
