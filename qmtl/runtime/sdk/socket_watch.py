"""When to ping a connection, and when to give it up."""

from collections.abc import Callable

from qmtl.engine.ports import Clock


class SocketWatch:
    """Watches one connection, from the moment it stands: silence is told by frames, a stall by data.

    A ping goes out every third of `timeout_s`, its pong is due within another; the connection is given up
    when it does not come, when no frame came for all of `timeout_s`, or no data for `stall_timeout_s`
    (None: data may stay away). All in real seconds.
    """

    def __init__(self, clock: Clock, *, timeout_s: float, stall_timeout_s: float | None = None) -> None:
        self._clock = clock
        self._timeout_s = timeout_s
        self._stall_s = stall_timeout_s
        self.heard_s = self._data_s = self._ping_due_s = clock.real_ms() / 1000
        self._ping_due_s += timeout_s / 3
        self._asked_s: float | None = None

    def heard(self, *, is_data: bool, is_pong: bool) -> None:
        """Take note of a frame."""
        self.heard_s = self._clock.real_ms() / 1000
        if is_data:
            self._data_s = self.heard_s
        elif is_pong:
            self._asked_s = None

    async def run(self, ping: Callable[[], None]) -> str:
        """Ping in time and return why the connection should be given up, once it should."""
        while True:
            now_s = self._clock.real_ms() / 1000
            due_s, why = min(self._limits())
            if now_s >= due_s:
                return why
            if now_s >= self._ping_due_s:
                ping()
                self._ping_due_s = now_s + self._timeout_s / 3
                self._asked_s = now_s if self._asked_s is None else self._asked_s
                continue
            await self._clock.sleep(min(due_s, self._ping_due_s) - now_s)

    def _limits(self) -> list[tuple[float, str]]:
        limits = [(self.heard_s + self._timeout_s, f"silent for {self._timeout_s:g} s")]
        if self._asked_s is not None:
            third_s = self._timeout_s / 3
            limits.append((self._asked_s + third_s, f"no pong within {third_s:g} s"))
        if self._stall_s is not None:
            limits.append((self._data_s + self._stall_s, f"no data for {self._stall_s:g} s"))
        return limits
