"""Request weights and order counts: headers, 429, and 418 for those who go on."""

from collections import defaultdict
from math import ceil

import msgspec

from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.settings import WeightLimits

_MINUTE_MS = 60_000
_TEN_SECONDS_MS = 10_000


class _Window(msgspec.Struct):
    """Use counted in one window of real time."""

    number: int = -1
    used: int = 0

    def add(self, number: int, amount: int) -> int:
        if number != self.number:
            self.number, self.used = number, 0
        self.used += amount
        return self.used


class _Client(msgspec.Struct):
    """What one client used, how often it was refused, and until when it is banned."""

    weight: _Window = msgspec.field(default_factory=_Window)
    refusals: int = 0
    banned_until_ms: float = 0.0


class _Orders(msgspec.Struct):
    """Orders of one account."""

    short: _Window = msgspec.field(default_factory=_Window)
    minute: _Window = msgspec.field(default_factory=_Window)


class WeightMeter:
    """Counts weights by client address and orders by API key, in windows of real time."""

    def __init__(self, limits: WeightLimits) -> None:
        self.limits = limits
        self._clients: defaultdict[str, _Client] = defaultdict(_Client)
        self._orders: defaultdict[str, _Orders] = defaultdict(_Orders)

    def charge(self, address: str, weight: int, real_ms: float) -> int:
        """Count a request and return the weight used this minute; VenueError 429 or 418 when too much."""
        client = self._clients[address]
        if real_ms < client.banned_until_ms:
            raise self._banned(client, real_ms)
        used = client.weight.add(int(real_ms // _MINUTE_MS), weight)
        if used <= self.limits.weight_1m:
            client.refusals = 0
            return used
        client.refusals += 1
        if client.refusals > self.limits.ban_after:
            client.refusals = 0
            client.banned_until_ms = real_ms + self.limits.ban_s * 1_000
            raise self._banned(client, real_ms)
        left_s = ceil((_MINUTE_MS - real_ms % _MINUTE_MS) / 1_000)
        raise VenueError(-1003, retry_after_s=left_s, limit=self.limits.weight_1m)

    def count_order(self, api_key: str, real_ms: float) -> tuple[int, int]:
        """Count an order and return those of the last window of 10 s and of 1 m; VenueError 429."""
        orders = self._orders[api_key]
        short = orders.short.add(int(real_ms // _TEN_SECONDS_MS), 1)
        minute = orders.minute.add(int(real_ms // _MINUTE_MS), 1)
        if short > self.limits.orders_10s:
            left_s = ceil((_TEN_SECONDS_MS - real_ms % _TEN_SECONDS_MS) / 1_000)
            raise VenueError(-1015, retry_after_s=left_s, limit=self.limits.orders_10s, interval="10 SECOND")
        if minute > self.limits.orders_1m:
            left_s = ceil((_MINUTE_MS - real_ms % _MINUTE_MS) / 1_000)
            raise VenueError(-1015, retry_after_s=left_s, limit=self.limits.orders_1m, interval="1 MINUTE")
        return short, minute

    def dump_limits(self) -> list[dict[str, object]]:
        """Return the limits as exchangeInfo lists them."""
        rows = (
            ("REQUEST_WEIGHT", "MINUTE", 1, self.limits.weight_1m),
            ("ORDERS", "MINUTE", 1, self.limits.orders_1m),
            ("ORDERS", "SECOND", 10, self.limits.orders_10s),
        )
        names = ("rateLimitType", "interval", "intervalNum", "limit")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _banned(self, client: _Client, real_ms: float) -> VenueError:
        left_s = ceil((client.banned_until_ms - real_ms) / 1_000)
        return VenueError(-1003, status=418, retry_after_s=left_s, limit=self.limits.weight_1m)
