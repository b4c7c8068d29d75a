"""Rule lists as signals: AND inside a call, OR across calls."""

from collections.abc import Mapping
from typing import Any

from qmtl.runtime.sdk.bars import Bools
from qmtl.runtime.sdk.signals import Signals, all_of, either


class ConditionSet:
    """Collects conditions; `clear`, the last word of a list, returns the Signals.

    `ConditionSet().long(a > b, c < d).long(e > f).short(…).clear(…)`: a long where a > b and c < d, or where
    e > f; `clear` leaves whichever position is held, `clear_long` and `clear_short` only theirs. A list
    without `clear` may be returned by a strategy as it is. Lags are `ta.shift(column, bars)`, or
    `.shift(bars)` where a column is a pandas or polars series. `plot` holds lines by name, as Signals has it.
    """

    def __init__(self, plot: Mapping[str, Any] | None = None) -> None:
        self._plot = plot
        self._long: Bools | None = None
        self._short: Bools | None = None
        self._exit_long: Bools | None = None
        self._exit_short: Bools | None = None

    def long(self, *conditions: Any) -> "ConditionSet":
        """Enter long where all of `conditions` hold."""
        self._long = either(self._long, all_of("long", conditions))
        return self

    def short(self, *conditions: Any) -> "ConditionSet":
        """Enter short where all of `conditions` hold."""
        self._short = either(self._short, all_of("short", conditions))
        return self

    def clear_long(self, *conditions: Any) -> "ConditionSet":
        """Leave a long where all of `conditions` hold."""
        self._exit_long = either(self._exit_long, all_of("clear_long", conditions))
        return self

    def clear_short(self, *conditions: Any) -> "ConditionSet":
        """Leave a short where all of `conditions` hold."""
        self._exit_short = either(self._exit_short, all_of("clear_short", conditions))
        return self

    def clear(self, *conditions: Any) -> Signals:
        """Leave any position where all of `conditions` hold; `clear` of what it returns adds another OR."""
        return self.signals().clear(*conditions)

    def signals(self) -> Signals:
        """Return the signals of everything said so far."""
        return Signals(
            long=False if self._long is None else self._long,
            short=False if self._short is None else self._short,
            exit_long=False if self._exit_long is None else self._exit_long,
            exit_short=False if self._exit_short is None else self._exit_short,
            plot=self._plot,
        )

    def checked(self, count: int, who: str = "signals") -> Signals:
        """Be taken for Signals wherever a strategy returns them."""
        return self.signals().checked(count, who)
