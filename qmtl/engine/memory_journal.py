"""The journal of a run that nothing survives: a list."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

from qmtl.core.event import AnyEvent
from qmtl.engine.heap import rare_collections
from qmtl.engine.quiet_bars import QuietBars


class MemoryJournal:
    """A journal that is a list; durable as long as the process."""

    def __init__(self, epoch: str = "memory") -> None:
        """Start empty."""
        self.epoch = epoch
        # Records, and stretches of quiet bars that nobody has read yet.
        self.kept: list[AnyEvent | QuietBars] = []
        self._is_flat = True
        self.append: Callable[[AnyEvent], None] = self.kept.append

    @property
    def events(self) -> list[AnyEvent]:
        """Every record in order, in the journal's own list; quiet bars are written out at the first look."""
        if not self._is_flat:
            with rare_collections():
                self.kept[:] = _write_out(self.kept)
            self._is_flat = True
        return cast("list[AnyEvent]", self.kept)

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """See ports.EventJournal."""
        if type(events) is QuietBars:
            self.kept.append(events)
            self._is_flat = False
        else:
            self.kept.extend(events)

    def commit(self) -> None:
        """Nothing to do."""

    def read(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """See ports.EventJournal; seq counts from 1."""
        yield from enumerate(self.events[after_seq:], after_seq + 1)

    def read_orders(self, after_seq: int = 0) -> Iterator[tuple[int, AnyEvent]]:
        """See SqliteJournal."""
        return self.read(after_seq)

    def history(self, client_order_id: str) -> Iterator[tuple[int, AnyEvent]]:
        """See SqliteJournal."""
        mine = (x for x in self.read() if getattr(x[1], "client_order_id", "") == client_order_id)
        yield from mine

    def close(self) -> None:
        """Nothing to do."""


def _write_out(kept: Iterable[AnyEvent | QuietBars]) -> list[AnyEvent]:
    events: list[AnyEvent] = []
    for item in kept:
        if isinstance(item, QuietBars):
            events.extend(item)
        else:
            events.append(item)
    return events
