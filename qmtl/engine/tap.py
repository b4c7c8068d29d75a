"""A journal that also tells listeners what it was given."""

from collections.abc import Callable, Iterable, Iterator

from qmtl.core.event import AnyEvent
from qmtl.engine.ports import EventJournal

Listener = Callable[[AnyEvent], None]


class TappedJournal:
    """Passes everything on to `journal` first, then to each listener; listeners must not block."""

    def __init__(self, journal: EventJournal) -> None:
        """Tap `journal`."""
        self._journal = journal
        self.listeners: list[Listener] = []
        self.commit = journal.commit

    @property
    def epoch(self) -> str:
        """See ports.EventJournal."""
        return self._journal.epoch

    def append(self, event: AnyEvent) -> None:
        """See ports.EventJournal."""
        self._journal.append(event)
        for listener in self.listeners:
            listener(event)

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """See ports.EventJournal."""
        for event in events:
            self.append(event)

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """See ports.EventJournal."""
        return self._journal.read(after_seq)

    def close(self) -> None:
        """See ports.EventJournal."""
        self._journal.close()
