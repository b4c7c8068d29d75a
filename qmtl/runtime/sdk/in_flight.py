"""Who fetches what right now: a request joins ranges that are on their way and starts only the rest."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from qmtl.core.ranges import Range, intersect_ranges, merge_ranges, subtract_ranges

T = TypeVar("T")


class Flight(Generic[T]):
    """One range on its way; it ends by itself, whoever stops waiting."""

    def __init__(self, span: Range, task: "asyncio.Task[T]") -> None:
        self.span = span
        self.task = task
        self.waiters = 0

    @property
    def error(self) -> BaseException | None:
        """What it failed with, None while it flies or when it did not."""
        if not self.task.done():
            return None
        return asyncio.CancelledError() if self.task.cancelled() else self.task.exception()


class InFlightBook(Generic[T]):
    """The flights of each series on one event loop."""

    def __init__(self) -> None:
        self._flights: dict[Any, list[Flight[T]]] = {}

    def join(
        self,
        key: Any,
        wanted: Sequence[Range],
        *,
        split: Callable[[list[Range]], Sequence[Range]],
        fly: Callable[[Range], Coroutine[Any, Any, T]],
    ) -> list[Flight[T]]:
        """Return the flights that bring `wanted`: those that fly already, and new ones for the rest.

        `split` cuts the rest into one range each; `fly` brings one.
        """
        ranges = merge_ranges(wanted)
        flying = self._flights.setdefault(key, [])
        joined = [one for one in flying if intersect_ranges([one.span], ranges)]
        rest = subtract_ranges(ranges, merge_ranges([one.span for one in joined]))
        for span in split(rest):
            flight = Flight(span, asyncio.get_running_loop().create_task(fly(span)))
            flying.append(flight)
            joined.append(flight)
            flight.task.add_done_callback(partial(self._land, key, flight))
        return joined

    def _land(self, key: Any, flight: Flight[T], _task: "asyncio.Task[T]") -> None:
        flying = self._flights[key]
        flying.remove(flight)
        if not flying:
            del self._flights[key]
        # Whoever waits looks at the error; asking here keeps the loop from reporting it as unseen.
        _ = flight.error

    async def wait(self, flights: Sequence[Flight[T]], *, abandons: bool = False) -> None:
        """Wait until all have ended, one way or the other.

        A waiter that is cancelled leaves them flying; with `abandons` the last waiter takes them down.
        """
        for one in flights:
            one.waiters += 1
        try:
            pending = [one.task for one in flights if not one.task.done()]
            if pending:
                await asyncio.wait(pending)
        finally:
            for one in flights:
                one.waiters -= 1
                if abandons and not one.waiters:
                    one.task.cancel()

    @property
    def tasks(self) -> "list[asyncio.Task[T]]":
        """Every task that flies."""
        return [one.task for flying in self._flights.values() for one in flying]
