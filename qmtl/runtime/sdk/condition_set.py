"""Rule lists as signals: AND inside a call, OR across calls."""

from typing import Any

import numpy as np

from qmtl.runtime.sdk.bars import Bools
from qmtl.runtime.sdk.signals import Signals, SignalsError


class ConditionSet:
    """Collects conditions; a strategy may return it as it is, or `signals(plot=…)` of it.

    `ConditionSet().long(a > b, c < d).long(e > f).short(…).clear(…)`: a long where a > b and c < d, or where
    e > f; `clear` leaves whichever position is held, `clear_long` and `clear_short` only theirs.
    Lags are `ta.shift(column, bars)`, or `.shift(bars)` where a column is a pandas or polars series.
    """

    def __init__(self) -> None:
        self._long: Bools | None = None
        self._short: Bools | None = None
        self._exit_long: Bools | None = None
        self._exit_short: Bools | None = None

    def long(self, *conditions: Any) -> "ConditionSet":
        """Enter long where all of `conditions` hold."""
        self._long = _either(self._long, _all("long", conditions))
        return self

    def short(self, *conditions: Any) -> "ConditionSet":
        """Enter short where all of `conditions` hold."""
        self._short = _either(self._short, _all("short", conditions))
        return self

    def clear(self, *conditions: Any) -> "ConditionSet":
        """Leave any position where all of `conditions` hold."""
        return self.clear_long(*conditions).clear_short(*conditions)

    def clear_long(self, *conditions: Any) -> "ConditionSet":
        """Leave a long where all of `conditions` hold."""
        self._exit_long = _either(self._exit_long, _all("clear", conditions))
        return self

    def clear_short(self, *conditions: Any) -> "ConditionSet":
        """Leave a short where all of `conditions` hold."""
        self._exit_short = _either(self._exit_short, _all("clear", conditions))
        return self

    def signals(self, plot: dict[str, Any] | None = None) -> Signals:
        """Return the signals of everything said so far."""
        return Signals(
            long=False if self._long is None else self._long,
            short=False if self._short is None else self._short,
            exit_long=False if self._exit_long is None else self._exit_long,
            exit_short=False if self._exit_short is None else self._exit_short,
            plot=plot,
        )

    def checked(self, count: int, who: str = "signals") -> Signals:
        """Be taken for Signals wherever a strategy returns them."""
        return self.signals().checked(count, who)


def _all(name: str, conditions: tuple[Any, ...]) -> Bools:
    if not conditions:
        raise SignalsError(f"ConditionSet.{name}: expected at least one condition")
    held: Bools | None = None
    for number, condition in enumerate(conditions, 1):
        array = np.asarray(condition)
        if array.dtype != bool:
            raise SignalsError(
                f"ConditionSet.{name}: condition {number}: expected booleans, found {array.dtype}"
            )
        if held is not None and array.shape != held.shape and array.ndim and held.ndim:
            raise SignalsError(
                f"ConditionSet.{name}: condition {number}: {len(array)} values, {len(held)} before it"
            )
        held = array if held is None else held & array
    assert held is not None  # noqa: S101 - there is at least one condition
    return held


def _either(one: Bools | None, other: Bools) -> Bools:
    return other if one is None else one | other
