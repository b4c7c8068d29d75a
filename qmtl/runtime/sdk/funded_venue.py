"""A simulated venue that pays recorded funding at its times."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import chain

from qmtl.core.event import AnyEvent, BarClosed, Event, PriceUpdated
from qmtl.core.interval import FUNDING_MS
from qmtl.core.order import Order
from qmtl.engine.ports import Reach
from qmtl.engine.simulated_venue import SimulatedVenue
from qmtl.runtime.sdk.market_history import Funding, Hole


class FundedVenue:
    """Pays what is due before anything happens at the first price of a bar; see `MatchingVenue`.

    With `is_continuous` price moves through everything between two updates of one bar, as it does through
    a candle: a stop between them fills at its own price.

    `rates` maps a symbol to its payments by 8h slot, None where no rates are known. A missing rate counts 0;
    where a position was open it is kept in `missing`.
    """

    reach: Reach = "memory"

    def __init__(
        self,
        venue: SimulatedVenue,
        rates: Mapping[str, Mapping[int, Funding] | None],
        *,
        is_continuous: bool = False,
    ) -> None:
        self.venue = venue
        self.missing: list[Hole] = []
        self.submit: Callable[[Order, int], Sequence[AnyEvent]] = venue.submit
        self.cancel = venue.cancel
        self._rates = rates
        self._next_ms: dict[str, int] = {}
        self._move = self._travel if is_continuous else venue.on_market
        self._bar_ms: dict[str, int] = {}
        self._is_continuous = is_continuous

    def on_market(self, event: Event) -> Iterable[AnyEvent]:
        """See MatchingVenue."""
        if type(event) is BarClosed or type(event) is PriceUpdated:
            due_ms = self._next_ms.get(event.symbol)
            if due_ms is None:
                # What fell due at the very first price was nobody's.
                self._next_ms[event.symbol] = (event.open_ms // FUNDING_MS + 1) * FUNDING_MS
            elif event.open_ms >= due_ms:
                paid = self._pay(event, due_ms)
                return chain(paid, self._move(event)) if paid else self._move(event)
        return self._move(event)

    def take_calm(self, bars: Sequence[BarClosed]) -> int:
        """See CalmVenue: up to the bar at which funding falls due."""
        due_ms = self._next_ms.get(bars[0].symbol, 0)
        if due_ms <= bars[-1].open_ms:
            bars = bars[: bisect_left(bars, due_ms, key=lambda bar: bar.open_ms)]
        return self.venue.take_calm(bars) if bars and not self._is_continuous else 0

    def _travel(self, event: Event) -> Iterator[AnyEvent]:
        if isinstance(event, BarClosed | PriceUpdated):
            if self._bar_ms.get(event.symbol) == event.open_ms:
                for events in self.venue.core.travel(event.symbol, event.close, event.ts_ms):
                    yield from events
            self._bar_ms[event.symbol] = event.open_ms
        yield from self.venue.on_market(event)

    def _pay(self, event: BarClosed | PriceUpdated, due_ms: int) -> Sequence[AnyEvent]:
        symbol = event.symbol
        slots = range(due_ms // FUNDING_MS, event.open_ms // FUNDING_MS + 1)
        self._next_ms[symbol] = slots.stop * FUNDING_MS
        events: list[AnyEvent] = []
        if not self.venue.core.account.net_quantity(symbol):
            return events
        rates = self._rates.get(symbol) or {}
        for slot in slots:
            ts_ms = slot * FUNDING_MS
            found = rates.get(slot)
            if found is None:
                self.missing.append(Hole(ts_ms, ts_ms + FUNDING_MS, f"{symbol}: no funding rate"))
                continue
            mark = event.open if found.mark is None else found.mark
            events += self.venue.core.on_funding(symbol, Decimal(str(found.rate)), ts_ms, mark)
        return events

    def fill_now(self) -> None:
        """From now on fill orders at the last price: there is no next one."""
        self.submit = self.venue.core.submit
