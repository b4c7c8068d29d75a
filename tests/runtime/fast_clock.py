"""A clock that runs many times faster than the machine's, for waits on real sockets."""

import asyncio
import time


class FastClock:
    """Real and exchange time at `pace` times the machine's; 20 s of patience take a fraction of one."""

    speed = 1.0

    def __init__(self, pace: float = 40.0, now_ms: int = 1_700_000_000_000) -> None:
        self.pace = pace
        self._origin_ms = now_ms
        self._start_s = time.monotonic()

    def now_ms(self) -> int:
        return self._origin_ms + int(self.real_ms())

    def real_ms(self) -> float:
        return (time.monotonic() - self._start_s) * 1000 * self.pace

    async def sleep(self, real_s: float) -> None:
        await asyncio.sleep(max(0.0, real_s) / self.pace)
