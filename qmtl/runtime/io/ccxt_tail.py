"""What is new in a cache of ccxt.pro.

A watch answers with what came until it woke; what comes before the next watch begins would wait in the cache
for the message after it. So the caches themselves are read, and a watch is only the bell.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class TradeTail:
    """The trades that `read` (the cache of one symbol) holds behind the last one given.

    What is in the cache when the tail is made is another reader's.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self._last: Any = None
        self.pull()

    def pull(self, answered: Sequence[Any] = ()) -> list[Any]:
        """Return new trades in order; those of the watch's answer where there is no cache."""
        cache = self._read()
        if not cache:
            return list(answered)
        new = []
        for trade in reversed(cache):
            if trade is self._last:
                break
            new.append(trade)
        if new:
            self._last = new[0]
        new.reverse()
        return new


class BarTail:
    """The rows that `read` (the cache of one symbol and timeframe) holds otherwise than they were given.

    What is in the cache when the tail is made is another reader's.
    """

    def __init__(self, read: Callable[[], Any]) -> None:
        self._read = read
        self._last: list[Any] | None = None
        self.pull()

    def pull(self, answered: Sequence[Any] = ()) -> list[list[Any]]:
        """Return new and changed rows in order; those of the watch's answer where there is no cache."""
        cache = self._read()
        last = self._last
        # ccxt changes the rows of its cache in place: these are copies.
        if not cache:
            return [list(row) for row in answered]
        new = []
        for row in reversed(cache):
            if last is not None and (row[0] < last[0] or row == last):
                break
            new.append(list(row))
        if new:
            self._last = new[0]
        new.reverse()
        return new


def find_cache(api: Any, name: str, *path: str | None) -> Any:
    """Return a cache such as `api.ohlcvs[symbol][timeframe]`, None when there is none."""
    found = getattr(api, name, None)
    for part in path:
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
