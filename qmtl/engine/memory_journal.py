"""The journal of a run that nothing survives: a list."""

from collections.abc import Callable, Iterable, Iterator

from qmtl.core.event import AnyEvent
from qmtl.engine.heap import rare_collections
from qmtl.engine.quiet_bars import QuietBars


class MemoryJournal:
    """A journal that is a list; durable as long as the process.

    Quiet bars come from backtests, which have one thread; single records may come from another.
    """

    def __init__(self, epoch: str = "memory") -> None:
        """Start empty."""
        self.epoch = epoch
        self.written: list[AnyEvent] = []
        """All records but those of `quiet`."""
        self._quiet: list[tuple[int, QuietBars]] = []
        self.append: Callable[[AnyEvent], None] = self.written.append

    @property
    def quiet(self) -> list[QuietBars]:
        """Stretches of quiet bars that nobody has read yet."""
        return [stretch for _, stretch in self._quiet]

    @property
    def events(self) -> list[AnyEvent]:
        """Every record so far, in order; the journal's own list, which lacks quiet bars that come later."""
        if self._quiet:
            with rare_collections():
                self._write_out()
        return self.written

    def extend(self, events: Iterable[AnyEvent]) -> None:
        """See ports.EventJournal."""
        if type(events) is QuietBars:
            self._quiet.append((len(self.written), events))
        else:
            self.written.extend(events)

    def _write_out(self) -> None:
        """Put the records of quiet bars where they belong; what was written before the first stays."""
        written, quiet = self.written, self._quiet
        begin = at = quiet[0][0]
        end = quiet[-1][0]
        records: list[AnyEvent] = []
        for place, stretch in quiet:
            records += written[at:place]
            records += stretch
            at = place
        written[begin:end] = records
        quiet.clear()

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
