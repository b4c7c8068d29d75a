"""Indicator arrays that a sweep computes once: the same kernel on the same column with the same numbers.

Off unless a sweep turns it on. Only arrays that the memo knows (columns of bars, its own results) can be
remembered by; what it hands out is read-only, since others will be handed the same.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
T = TypeVar("T")

LIMIT_BYTES = 256 * 1024 * 1024


class Memo:
    """Results by function and arguments, the longest unused ones dropped above `limit` bytes."""

    def __init__(self, columns: Iterable[Any], limit: int = LIMIT_BYTES) -> None:
        self.hits = 0
        self._limit = limit
        self._columns = tuple(columns)
        self._results: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        # An address is an array's only as long as the array lives; its number is never given again.
        self._numbers = {id(column): number for number, column in enumerate(self._columns)}
        self._next = len(self._columns)
        self._size = 0

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return `function(*args, **kwargs)`, remembered where every array among them is known."""
        key = self._key(function, args, kwargs)
        if key is None:
            return function(*args, **kwargs)
        if key in self._results:
            self.hits += 1
            self._results.move_to_end(key)
            return self._results[key]
        result = function(*args, **kwargs)
        for array in result if isinstance(result, tuple) else (result,):
            array.flags.writeable = False
            self._numbers[id(array)] = self._next
            self._next += 1
            self._size += array.nbytes
        self._results[key] = result
        while self._size > self._limit and len(self._results) > 1:
            self._drop()
        return result

    def _key(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Any, ...] | None:
        parts: list[Any] = [function]
        for name, value in (*enumerate(args), *sorted(kwargs.items())):
            if isinstance(value, np.ndarray):
                number = self._numbers.get(id(value))
                if number is None:
                    return None
                parts.append((name, "array", number))
            elif isinstance(value, int | float | str | np.number):
                parts.append((name, type(value), value))
            else:
                return None
        return tuple(parts)

    def _drop(self) -> None:
        _, result = self._results.popitem(last=False)
        for array in result if isinstance(result, tuple) else (result,):
            self._size -= array.nbytes
            self._numbers.pop(id(array), None)


_ACTIVE: list[Memo] = []


@contextmanager
def remembering(memo: Memo) -> Iterator[Memo]:
    """Have kernels of `ta` remember into `memo` inside the block."""
    _ACTIVE.append(memo)
    try:
        yield memo
    finally:
        _ACTIVE.remove(memo)


def remembered(function: Callable[P, T]) -> Callable[P, T]:
    """Make a kernel one whose results a sweep remembers."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if not _ACTIVE:
            return function(*args, **kwargs)
        found: T = _ACTIVE[-1].call(function, args, kwargs)
        return found

    return call
