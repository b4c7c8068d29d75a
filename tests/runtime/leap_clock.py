"""A clock whose sleepers do not wait: time leaps to where they wanted it."""

import asyncio


class LeapClock:
    """Real and exchange time that move by what is slept; `slept` keeps every wait in seconds."""

    def __init__(self, now_ms: int = 1_700_000_000_000, speed: float = 1.0) -> None:
        self.speed = speed
        self.slept: list[float] = []
        self._origin_ms = now_ms
        self._real_ms = 0.0

    def now_ms(self) -> int:
        return self._origin_ms + int(self._real_ms * self.speed)

    def real_ms(self) -> float:
        return self._real_ms

    async def sleep(self, real_s: float) -> None:
        self.slept.append(real_s)
        self._real_ms += max(0.0, real_s) * 1000
        await asyncio.sleep(0)


class MidRandom:
    """Randomness that is always in the middle."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2

    def randbytes(self, n: int) -> bytes:
        return bytes(n)
