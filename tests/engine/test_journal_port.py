"""One suite for every journal: memory, SQLite, and either of them tapped."""

from collections.abc import Callable

from qmtl.core import event as ev
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.tap import TappedJournal

Opened = Callable[[], EventJournal]


def bar(number: int) -> ev.BarClosed:
    return ev.BarClosed(number, "BTCUSDT", number, 1.0, 1.0, 1.0, 1.0, 1.0)


def test_it_names_its_epoch(journal: EventJournal) -> None:
    assert journal.epoch == "e1"


def test_what_goes_in_comes_out_in_order_and_numbered(journal: EventJournal) -> None:
    events: list[ev.AnyEvent] = [bar(1), ev.TimerFired(2), ev.OrderAccepted(3, "q1", "v"), bar(4)]
    journal.append(events[0])
    journal.extend(events[1:3])
    journal.commit()
    journal.append(events[3])
    assert list(journal.read()) == list(enumerate(events, 1))


def test_reading_goes_on_after_a_number(journal: EventJournal) -> None:
    journal.extend([bar(number) for number in range(5)])
    assert [seq for seq, _ in journal.read(3)] == [4, 5]
    assert list(journal.read(5)) == []
    assert list(journal.read(50)) == []


def test_committing_nothing_and_extending_by_nothing(journal: EventJournal) -> None:
    journal.commit()
    journal.extend([])
    journal.commit()
    assert list(journal.read()) == []


def test_appending_goes_on_after_reading(journal: EventJournal) -> None:
    journal.append(bar(1))
    list(journal.read())
    journal.append(bar(2))
    journal.commit()
    assert [seq for seq, _ in journal.read()] == [1, 2]


def test_listeners_hear_each_event_once_after_the_journal_has_it() -> None:
    inner = MemoryJournal()
    tapped = TappedJournal(inner)
    heard: list[tuple[ev.AnyEvent, int]] = []
    tapped.listeners.append(lambda event: heard.append((event, len(inner.events))))
    tapped.append(bar(1))
    tapped.extend([bar(2), bar(3)])
    assert heard == [(bar(1), 1), (bar(2), 2), (bar(3), 3)]
