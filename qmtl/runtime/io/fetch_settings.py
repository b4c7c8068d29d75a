"""What every fetcher of history is told: exchange, symbols, rows a request, and how patient to be."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TypeVar

from qmtl.runtime.io.rate_limiter import RateLimiterConfig
from qmtl.runtime.sdk.ohlcv_nodeid import TIMEFRAME_SECONDS, NodeId, NodeIdError, parse_node_id

_EXCHANGE = re.compile(r"[a-z0-9_]+")
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")
_MAX_SYMBOL = 200
T = TypeVar("T")


@dataclass(frozen=True, init=False)
class FetchSettings:
    """Base of the published configurations; ValueError names the field that is wrong.

    `exchange_id` is another spelling of `exchange`, `window_size` of `batch_limit`: one or both, when equal.
    """

    exchange: str
    symbols: tuple[str, ...] | None
    batch_limit: int
    earliest_ts: int | None
    min_interval_ms: float | None
    max_retries: int
    retry_backoff_s: float
    max_concurrent_windows: int
    rate_limiter: RateLimiterConfig = field(repr=False)

    def __init__(
        self,
        *,
        exchange: str | None = None,
        exchange_id: str | None = None,
        symbols: Sequence[str] | None = None,
        batch_limit: int | None = None,
        window_size: int | None = None,
        earliest_ts: int | None = None,
        min_interval_ms: float | None = None,
        max_retries: int = 3,
        retry_backoff_s: float = 0.5,
        max_concurrent_windows: int = 4,
        rate_limiter: RateLimiterConfig | None = None,
    ) -> None:
        limit = pick_alias("batch_limit", batch_limit, "window_size", window_size)
        put = object.__setattr__
        put(self, "exchange", check_exchange(exchange, exchange_id))
        put(self, "symbols", check_symbols(symbols))
        put(self, "batch_limit", check_whole("batch_limit", 1000 if limit is None else limit, 1))
        put(self, "earliest_ts", None if earliest_ts is None else check_whole("earliest_ts", earliest_ts, 0))
        put(self, "max_retries", check_whole("max_retries", max_retries, 0))
        put(self, "retry_backoff_s", check_number("retry_backoff_s", retry_backoff_s))
        put(
            self,
            "max_concurrent_windows",
            check_whole("max_concurrent_windows", max_concurrent_windows, 1),
        )
        put(self, "min_interval_ms", min_interval_ms)
        put(self, "rate_limiter", _settle_limiter(min_interval_ms, rate_limiter or RateLimiterConfig()))

    @property
    def exchange_id(self) -> str:
        """See `exchange`."""
        return self.exchange

    @property
    def window_size(self) -> int:
        """See `batch_limit`."""
        return self.batch_limit

    def resolve(self, node_id: str, kind: str) -> NodeId:
        """Return the parts of a node id that this configuration serves; NodeIdError otherwise."""
        return resolve_node(node_id, kind, self.exchange, self.symbols)


def resolve_node(node_id: str, kind: str, exchange: str, symbols: Sequence[str] | None) -> NodeId:
    """Return the parts of `node_id` if it is a series of `kind` on `exchange` within `symbols`."""
    named = parse_node_id(node_id)
    if named.kind != kind:
        raise NodeIdError(node_id, f"expected a series of {kind}")
    if named.exchange != exchange:
        raise NodeIdError(node_id, f"the exchange is not the configured {exchange!r}")
    if symbols and named.symbol not in symbols:
        raise NodeIdError(node_id, f"symbol {named.symbol!r} is not among the configured ones")
    return named


def check_interval(node_id: str, named: NodeId, interval: int, timeframe: str | None) -> int:
    """Return the length of a cell in seconds; NodeIdError when it is not that of the timeframe."""
    check_whole("interval", interval, 1)
    if named.timeframe is None:
        return interval
    if timeframe is not None and timeframe != named.timeframe:
        raise NodeIdError(node_id, f"the timeframe is not the configured {timeframe!r}")
    if TIMEFRAME_SECONDS[named.timeframe] != interval:
        raise NodeIdError(node_id, f"interval {interval} is not the {named.timeframe} of the id")
    return interval


def check_range(start: int, end: int) -> None:
    """Raise ValueError unless 0 <= start <= end, in whole seconds."""
    check_whole("start", start, 0)
    check_whole("end", end, 0)
    if start > end:
        raise ValueError(f"start {start} is after end {end}")


def check_exchange(exchange: str | None, exchange_id: str | None) -> str:
    """Return the exchange that one or both spellings name."""
    chosen: object = pick_alias("exchange", exchange, "exchange_id", exchange_id)
    if chosen is None:
        raise ValueError("exchange: is required")
    if not isinstance(chosen, str) or not _EXCHANGE.fullmatch(chosen):
        raise ValueError(f"exchange: expected lower-case letters, digits and _, got {chosen!r}")
    return chosen


def check_symbols(symbols: Sequence[str] | None) -> tuple[str, ...] | None:
    """Return the symbols as a tuple; a single text is refused, it would be taken letter by letter."""
    if symbols is None:
        return None
    given: object = symbols
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise ValueError(f"symbols: expected a list of symbols, got {given!r}")
    for symbol in given:
        if not isinstance(symbol, str) or not 0 < len(symbol) <= _MAX_SYMBOL or _UNPRINTABLE.search(symbol):
            raise ValueError(f"symbols: {symbol!r} is not a unified symbol")
    return tuple(given)


def check_timeframe(timeframe: str | None) -> str | None:
    """Return the timeframe if it is known, or None."""
    if timeframe is not None and timeframe not in list(TIMEFRAME_SECONDS):
        raise ValueError(f"timeframe: {timeframe!r} is not known; known: {', '.join(TIMEFRAME_SECONDS)}")
    return timeframe


def pick_alias(name: str, value: T | None, alias: str, other: T | None) -> T | None:
    """Return what one or both of two spellings say; ValueError when they differ."""
    if value is not None and other is not None and value != other:
        raise ValueError(f"{name}={value!r} and {alias}={other!r} are unequal")
    return value if value is not None else other


def check_whole(name: str, value: object, at_least: int) -> int:
    """Return a whole number; ValueError names the field."""
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}: expected a whole number from {at_least}, got {value!r}")
    return value


def check_number(name: str, value: object, *, above: float | None = None) -> float:
    """Return a finite number, from 0 or above `above`; ValueError names the field."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"{name}: expected a number, got {value!r}")
    if value < 0 or (above is not None and value <= above):
        raise ValueError(f"{name}: expected a number {'from 0' if above is None else f'above {above}'}")
    return float(value)


def _settle_limiter(min_interval_ms: float | None, limiter: RateLimiterConfig) -> RateLimiterConfig:
    given: object = limiter
    if not isinstance(given, RateLimiterConfig):
        raise ValueError(f"rate_limiter: expected a RateLimiterConfig, got {type(given).__name__}")
    if min_interval_ms is None:
        return limiter
    check_number("min_interval_ms", min_interval_ms)
    if not limiter.is_rated:
        return replace(limiter, min_interval_s=min_interval_ms / 1000, min_interval_ms=min_interval_ms)
    if not min_interval_ms or limiter.rate() != 1000 / min_interval_ms:
        raise ValueError("min_interval_ms and rate_limiter say two different things; give one of them")
    return limiter
