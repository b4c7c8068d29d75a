"""Suppressing the same order given twice by a strategy."""

from collections.abc import Mapping
from decimal import Decimal
from threading import Lock
from typing import Any

CAPACITY = 10_000
LIFETIME_S = 600.0
_FIELDS = (
    ("world_id",),
    ("strategy_id",),
    ("symbol",),
    ("side",),
    ("type",),
    ("quantity", "amount"),
    ("limit_price", "price"),
    ("stop_price",),
    ("time_in_force", "tif"),
    ("position_side", "positionSide"),
    ("reduce_only", "reduceOnly"),
    ("timestamp",),
)
_CLIENT_ID = ("client_order_id", "clientOrderId", "newClientOrderId")

_PLAIN = (int, float, Decimal, type(None))

Key = tuple[object, ...]


def dedup_key(order: Mapping[str, Any]) -> Key | None:
    """Return what makes two payloads one order: the client id, else every field of its bar, else None."""
    for name in _CLIENT_ID:
        if order.get(name):
            return (order[name],)
    if order.get("timestamp") is None:
        return None
    key = tuple(next((order[n] for n in names if order.get(n) is not None), None) for names in _FIELDS)
    return tuple(
        part.upper() if isinstance(part, str) else part if isinstance(part, _PLAIN) else repr(part)
        for part in key
    )


class OrderDedup:
    """Remembers up to 10,000 keys for 600 s of monotonic time; the oldest go first."""

    def __init__(self) -> None:
        self._since_ms: dict[Key, float] = {}
        self._lock = Lock()

    def reserve(self, key: Key, real_ms: float) -> bool:
        """Take `key` before its order is sent; False when it was taken within the lifetime."""
        with self._lock:
            return self._reserve(key, real_ms)

    def _reserve(self, key: Key, real_ms: float) -> bool:
        kept = self._since_ms
        expired_ms = real_ms - LIFETIME_S * 1000
        since_ms = kept.get(key)
        if since_ms is not None:
            if since_ms > expired_ms:
                return False
            del kept[key]
        # Keys stand in the order of their time, so the first are the oldest.
        while kept and (len(kept) >= CAPACITY or next(iter(kept.values())) <= expired_ms):
            del kept[next(iter(kept))]
        kept[key] = real_ms
        return True

    def release(self, key: Key) -> None:
        """Give `key` back: the venue provably has no such order."""
        self._since_ms.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._since_ms.clear()
