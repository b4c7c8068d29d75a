"""How long to wait before connecting again: the one policy of every socket."""

from qmtl.engine.ports import Clock, Random

LASTING_S = 10.0
"""A connection that lasted this long was a good one: counting starts anew."""
_PATIENT_AFTER = 7
_PATIENT_S = 30.0
_PATIENT_SPREAD = 0.2


class Reconnect:
    """Counts breaks and answers each with a delay, or with None once the budget is spent.

    `max_retries` bounds breaks and `max_total_s` real seconds since the first of them, both since a
    connection last lasted 10 s; None means no bound. Delays are real seconds.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        base_delay_s: float = 1.0,
        factor: float = 2.0,
        max_delay_s: float = 8.0,
        max_retries: int | None = None,
        max_total_s: float | None = None,
    ) -> None:
        self._clock = clock
        self._random = random
        self._base_delay_s = base_delay_s
        self._factor = factor
        self._max_delay_s = max_delay_s
        self._max_retries = max_retries
        self._max_total_s = max_total_s
        self._opened_ms: float | None = None
        self._first_break_ms: float | None = None
        self.breaks = 0
        self.total_breaks = 0

    def opened(self) -> None:
        """Take note that a connection stands."""
        self._opened_ms = self._clock.real_ms()

    def is_lasting(self) -> bool:
        """Tell whether the present connection has lasted long enough to reset the budget."""
        return self._opened_ms is not None and self._clock.real_ms() - self._opened_ms >= LASTING_S * 1000

    def broke(self) -> float | None:
        """Take note of a break or a failed attempt; return the delay before the next, None when spent."""
        if self.is_lasting():
            self.breaks = 0
            self._first_break_ms = None
        self._opened_ms = None
        now_ms = self._clock.real_ms()
        if self._first_break_ms is None:
            self._first_break_ms = now_ms
        n = self.breaks
        self.breaks += 1
        self.total_breaks += 1
        if self._max_retries is not None and n >= self._max_retries:
            return None
        delay_s = self._delay_s(n)
        if self._max_total_s is not None:
            left_s = self._max_total_s - (now_ms - self._first_break_ms) / 1000
            if left_s <= 0:
                return None
            delay_s = min(delay_s, left_s)
        return delay_s

    def _delay_s(self, n: int) -> float:
        if n >= _PATIENT_AFTER:
            return _PATIENT_S * self._random.uniform(1 - _PATIENT_SPREAD, 1 + _PATIENT_SPREAD)
        delay_s = min(self._max_delay_s, self._base_delay_s * self._factor**n)
        return delay_s * self._random.uniform(0.5, 1)
