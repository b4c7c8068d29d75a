"""What a strategy's `signals` returns: boolean columns, and lines to plot."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from qmtl.runtime.sdk.bars import Bools, Floats
from qmtl.runtime.sdk.param import StrategyError

COLUMNS = ("long", "short", "exit_long", "exit_short")


class SignalsError(StrategyError):
    """A signals column is not what it must be; the message names strategy and column."""


class Signals:
    """When to enter and leave, one boolean a bar; a column that is not given is never true.

    `plot` holds lines by name, one float a bar (NaN where there is none): charts show them, and a bar
    without signal tells how far its close is from the nearest.
    """

    __slots__ = ("exit_long", "exit_short", "long", "plot", "short")

    def __init__(
        self,
        *,
        long: Any = False,
        short: Any = False,
        exit_long: Any = False,
        exit_short: Any = False,
        plot: Mapping[str, Any] | None = None,
    ) -> None:
        self.long = long
        self.short = short
        self.exit_long = exit_long
        self.exit_short = exit_short
        self.plot: Mapping[str, Any] = plot or {}

    def clear(self, *conditions: Any) -> "Signals":
        """Return the same signals, leaving any position also where all of `conditions` hold."""
        held = all_of("clear", conditions)
        return Signals(
            long=self.long,
            short=self.short,
            exit_long=either(self.exit_long, held),
            exit_short=either(self.exit_short, held),
            plot=self.plot,
        )

    def checked(self, count: int, who: str = "signals") -> "Signals":
        """Return the same signals as arrays of `count` rows; SignalsError names the first column at fault."""
        columns = {name: _booleans(getattr(self, name), count, name, who) for name in COLUMNS}
        plot = {name: _floats(values, count, f"plot {name}", who) for name, values in self.plot.items()}
        return Signals(**columns, plot=plot)


@runtime_checkable
class Checkable(Protocol):
    """Signals, or what becomes Signals: a ConditionSet."""

    def checked(self, count: int, who: str = "signals") -> Signals:
        """Return checked signals of `count` rows."""


def check_signals(found: Any, count: int, who: str = "signals") -> Signals:
    """Return what a strategy's `signals` gave, checked; SignalsError when it is something else."""
    if not isinstance(found, Checkable):
        raise SignalsError(f"{who}: expected Signals(…), got {type(found).__name__}")
    return found.checked(count, who)


def all_of(name: str, conditions: tuple[Any, ...]) -> Bools:
    """Return where all conditions hold; SignalsError names the call and the condition at fault."""
    if not conditions:
        raise SignalsError(f"{name}: expected at least one condition")
    held: Any = True
    for number, condition in enumerate(conditions, 1):
        array = np.asarray(condition)
        if array.dtype != bool:
            raise SignalsError(f"{name}: condition {number}: expected booleans, found {array.dtype}")
        if number > 1 and array.shape != held.shape and array.ndim and held.ndim:
            raise SignalsError(f"{name}: condition {number}: {len(array)} values, {len(held)} before it")
        held = np.asarray(held) & array
    found: Bools = held
    return found


def either(one: Any, other: Bools) -> Bools:
    """Return where one or the other holds; nothing said yet is False."""
    return other if one is None or one is False else one | other


def _booleans(values: Any, count: int, name: str, who: str) -> Bools:
    if type(values) is np.ndarray and values.dtype == bool and values.shape == (count,):
        return values
    array = np.asarray(values)
    if array.ndim == 0 and array.dtype == bool:
        return np.full(count, bool(array))
    _check_shape(array, count, name, who)
    if array.dtype != bool:
        if array.dtype.kind == "f" and bool(np.isnan(array).any()):
            row = int(np.isnan(array).argmax())
            raise SignalsError(f"{who}: column {name}: row {row} is NaN; expected true or false")
        raise SignalsError(f"{who}: column {name}: expected booleans, found {array.dtype}")
    return array


def _floats(values: Any, count: int, name: str, who: str) -> Floats:
    if type(values) is np.ndarray and values.dtype == np.float64 and values.shape == (count,):
        return values
    array = np.asarray(values)
    if array.ndim == 0 and array.dtype.kind in "fiu":
        return np.full(count, float(array))
    _check_shape(array, count, name, who)
    if array.dtype.kind not in "fiub":
        raise SignalsError(f"{who}: column {name}: expected numbers, found {array.dtype}")
    return array.astype(np.float64)


def _check_shape(array: Any, count: int, name: str, who: str) -> None:
    if array.shape != (count,):
        found = f"{len(array):,} values" if array.ndim == 1 else f"an array of shape {array.shape}"
        hint = (
            "; values of bars.at(…) come back by align(…)" if array.ndim == 1 and len(array) < count else ""
        )
        raise SignalsError(f"{who}: column {name}: {found} for {count:,} bars{hint}")
