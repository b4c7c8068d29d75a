"""Events on their way from sockets to the engine: in order, and no more prices than it can take."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable

from qmtl.core.event import AnyEvent, MarkPriceUpdated, PriceUpdated


class ConflatingQueue:
    """First in, first out; a price still waiting when a newer one of its kind and symbol comes is dropped.

    The newer price keeps its own place, so that it never overtakes a bar or a fill. `conflated` counts what
    was dropped.
    """

    def __init__(self) -> None:
        self.conflated = 0
        self._slots: deque[list[AnyEvent | None]] = deque()
        self._waiting: dict[tuple[type, str], list[AnyEvent | None]] = {}
        self._wake = asyncio.Event()
        self._failure: BaseException | None = None
        self._is_closed = False

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, event: AnyEvent) -> None:
        """Add `event` at the end."""
        slot: list[AnyEvent | None] = [event]
        if isinstance(event, PriceUpdated | MarkPriceUpdated):
            key = (event.__class__, event.symbol)
            older = self._waiting.get(key)
            if older is not None and older[0] is not None:
                older[0] = None
                self.conflated += 1
            self._waiting[key] = slot
        self._slots.append(slot)
        self._wake.set()

    def put_all(self, events: Iterable[AnyEvent]) -> None:
        """Add several."""
        for event in events:
            self.put(event)

    def fail(self, error: BaseException) -> None:
        """Have the iterator raise `error` once what waits was taken."""
        self._failure = error
        self._wake.set()

    def close(self) -> None:
        """End the iterator at once; what waits is not delivered."""
        self._is_closed = True
        self._slots.clear()
        self._wake.set()

    async def drain(self) -> AsyncIterator[AnyEvent]:
        """Yield events until closed."""
        slots = self._slots
        while not self._is_closed:
            while slots:
                slot = slots.popleft()
                event = slot[0]
                if event is not None:
                    # Taken: a newer price may no longer replace it.
                    slot[0] = None
                    yield event
            if self._failure is not None:
                raise self._failure
            if not self._is_closed:
                self._wake.clear()
                await self._wake.wait()
