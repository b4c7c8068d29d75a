"""Clocks: the only place that reads the machine's time."""

import asyncio
import heapq
import itertools
import random
import time


class SystemClock:
    """Exchange time is the machine's UTC time."""

    speed = 1.0

    def now_ms(self) -> int:
        """See ports.Clock."""
        return time.time_ns() // 1_000_000

    def real_ms(self) -> float:
        """See ports.Clock."""
        return time.monotonic_ns() / 1e6

    async def sleep(self, real_s: float) -> None:
        """See ports.Clock."""
        await asyncio.sleep(real_s)


class ScaledClock:
    """Exchange time starts at `origin_ms` and runs `speed` times as fast as real time."""

    def __init__(self, origin_ms: int, speed: float) -> None:
        """Start now. Raises ValueError unless speed is greater than 0."""
        if not speed > 0:
            message = f"speed: must be greater than 0, got {speed}"
            raise ValueError(message)
        self.origin_ms = origin_ms
        self.speed = speed
        self._start_ms = self.real_ms()

    def now_ms(self) -> int:
        """See ports.Clock."""
        return self.origin_ms + int((self.real_ms() - self._start_ms) * self.speed)

    def real_ms(self) -> float:
        """See ports.Clock."""
        return time.monotonic_ns() / 1e6

    async def sleep(self, real_s: float) -> None:
        """See ports.Clock."""
        await asyncio.sleep(real_s)


class VirtualClock:
    """Time that moves only when told; sleepers wake in order as it passes them."""

    def __init__(self, now_ms: int = 0, speed: float = 1.0) -> None:
        """Start at exchange time `now_ms`."""
        self.speed = speed
        self._origin_ms = now_ms
        self._real_ms = 0.0
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        """See ports.Clock."""
        return self._origin_ms + int(self._real_ms * self.speed)

    def real_ms(self) -> float:
        """See ports.Clock."""
        return self._real_ms

    async def sleep(self, real_s: float) -> None:
        """Wait until `advance` passes this moment."""
        if real_s <= 0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._real_ms + real_s * 1000, next(self._order), future))
        await future

    async def advance(self, real_s: float) -> None:
        """Let `real_s` real seconds pass, waking sleepers one at a time and letting each run."""
        target = self._real_ms + real_s * 1000
        await _let_others_run()
        while self._sleepers and self._sleepers[0][0] <= target:
            due, _, future = heapq.heappop(self._sleepers)
            self._real_ms = max(self._real_ms, due)
            if not future.done():
                future.set_result(None)
            await _let_others_run()
        self._real_ms = target
        await _let_others_run()

    def set_now_ms(self, now_ms: int) -> None:
        """Move exchange time forward to `now_ms` without waking anybody: for drivers of recorded events."""
        self._real_ms = max(self._real_ms, (now_ms - self._origin_ms) / self.speed)


class SeededRandom(random.Random):
    """Randomness that repeats with its seed; see ports.Random."""


class SystemRandom(random.SystemRandom):
    """Randomness of the machine; see ports.Random."""


async def _let_others_run() -> None:
    """Let tasks that are ready go as far as their next wait: one that just began must get to its sleep."""
    for _ in range(10):
        await asyncio.sleep(0)
