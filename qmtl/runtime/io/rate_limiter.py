"""Request slots that fetchers share: within themselves, within the process, or through Redis.

A slot is a place in a semaphore, then a token of a bucket. What one sharer is told to wait, all wait.
"""

import asyncio
from dataclasses import dataclass, field
from importlib import import_module
from math import isfinite
from types import TracebackType
from typing import Any, Literal, Protocol, cast
from weakref import WeakKeyDictionary

import structlog

from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.redis_bucket import RedisBucket
from qmtl.runtime.io.token_bucket import TokenBucket
from qmtl.runtime.sdk import runtime

Scope = Literal["local", "process", "cluster"]
_SCOPES = ("local", "process", "cluster")
_DSN_HEADS = ("redis://", "rediss://", "unix://")
_JITTER = 0.1
_SYSTEM = SystemClock()
_log = structlog.get_logger("qmtl.seamless")


@dataclass(frozen=True, kw_only=True)
class RateLimiterConfig:
    """How often requests may go out, and with whom the limit is shared.

    `min_interval_s` and `min_interval_ms`, `max_concurrency` and `local_semaphore` are two spellings each:
    unequal ones are a ValueError. `scope` None is `cluster` where a Redis address is known, else `process`.
    """

    max_concurrency: int = 1
    min_interval_s: float = 0.0
    min_interval_ms: float | None = None
    scope: Scope | None = None
    redis_dsn: str | None = field(default=None, repr=False)
    tokens_per_interval: float | None = None
    interval_ms: float | None = None
    burst_tokens: float | None = None
    local_semaphore: int | None = None
    key_suffix: str | None = None
    penalty_backoff_ms: float | None = None
    degraded_ratio: float = 0.5

    def __post_init__(self) -> None:
        for name in ("max_concurrency", "local_semaphore"):
            _check_whole(name, getattr(self, name), 1)
        for name in ("min_interval_s", "min_interval_ms", "penalty_backoff_ms"):
            _check_number(name, getattr(self, name), at_least=0)
        for name in ("tokens_per_interval", "interval_ms"):
            _check_number(name, getattr(self, name), above=0)
        _check_number("burst_tokens", self.burst_tokens, at_least=1)
        _check_number("degraded_ratio", self.degraded_ratio, above=0)
        if self.degraded_ratio > 1:
            raise ValueError(f"degraded_ratio: expected a share up to 1, got {self.degraded_ratio!r}")
        if self.scope is not None and self.scope not in _SCOPES:
            raise ValueError(f"scope: expected one of {', '.join(_SCOPES)}, got {self.scope!r}")
        if self.redis_dsn is not None and not str(self.redis_dsn).startswith(_DSN_HEADS):
            raise ValueError("redis_dsn: expected redis://, rediss:// or unix://")
        if (self.tokens_per_interval is None) != (self.interval_ms is None):
            raise ValueError("tokens_per_interval and interval_ms go together")
        self._settle_aliases()

    def _settle_aliases(self) -> None:
        seconds, millis = self.min_interval_s, self.min_interval_ms
        if millis is not None and seconds and abs(seconds * 1000 - millis) > 1e-6:
            raise ValueError(f"min_interval_s={seconds!r} and min_interval_ms={millis!r} are unequal")
        _set(self, "min_interval_s", millis / 1000 if millis is not None else seconds)
        _set(self, "min_interval_ms", seconds * 1000 if millis is None and seconds else millis)
        places, alias = self.max_concurrency, self.local_semaphore
        if alias is not None and places not in {1, alias}:
            raise ValueError(f"max_concurrency={places!r} and local_semaphore={alias!r} are unequal")
        _set(self, "max_concurrency", alias or places)
        _set(self, "local_semaphore", alias or places)

    @property
    def is_rated(self) -> bool:
        """Tell whether it says by itself how often."""
        return self.tokens_per_interval is not None or self.min_interval_s > 0

    def rate(self, rate_limit_ms: float | None = None) -> float | None:
        """Return requests a second, None for any number; `rate_limit_ms` is the exchange's own interval."""
        if self.tokens_per_interval is not None and self.interval_ms is not None:
            return self.tokens_per_interval * 1000 / self.interval_ms
        if self.min_interval_s:
            return 1 / self.min_interval_s
        return 1000 / rate_limit_ms if rate_limit_ms else None

    @property
    def capacity(self) -> float:
        """The most requests that may go out at once after a pause."""
        if self.burst_tokens is not None:
            return self.burst_tokens
        return max(1.0, float(int(self.tokens_per_interval or 1)))


class _Bucket(Protocol):
    tokens: float
    is_degraded: bool

    async def take(self, rate: float | None, capacity: float) -> float: ...
    async def block(self, wait_s: float) -> None: ...
    async def aclose(self) -> None: ...


class _LocalBucket:
    """A bucket of this process, or of one fetcher."""

    is_degraded = False

    def __init__(self, bucket: TokenBucket, clock: Clock) -> None:
        self._bucket = bucket
        self._clock = clock
        self.tokens = 0.0

    async def take(self, rate: float | None, capacity: float) -> float:
        wait_ms = self._bucket.take(self._clock.real_ms(), rate, capacity)
        self.tokens = self._bucket.tokens
        return wait_ms

    async def block(self, wait_s: float) -> None:
        self._bucket.block(self._clock.real_ms() + wait_s * 1000)

    async def aclose(self) -> None:
        """Nothing to close."""


class Limiter:
    """Request slots under one key: `async with limiter` holds one and gives the seconds waited for a token.

    Entered by any number of tasks of one loop. `aclose` closes a connection to Redis; the next use opens one.
    """

    def __init__(
        self,
        key: str,
        bucket: _Bucket,
        semaphore: asyncio.Semaphore,
        *,
        rate: float | None,
        capacity: float,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.key = key
        self.rate = rate
        self.capacity = capacity
        self._bucket = bucket
        self._semaphore = semaphore
        self._clock = clock
        self._rng = rng

    async def __aenter__(self) -> float:
        began_ms = self._clock.real_ms()
        is_held = False
        try:
            await self._semaphore.acquire()
            try:
                waited_s = await self._wait_for_token()
                is_held = True
            finally:
                if not is_held:
                    self._semaphore.release()
        finally:
            if not is_held:
                SEAMLESS.limiter_dropped.labels(self.key, "cancelled").inc()
        SEAMLESS.limiter_wait.labels(self.key).observe((self._clock.real_ms() - began_ms) / 1000)
        return waited_s

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._semaphore.release()

    async def penalise(self, wait_s: float) -> None:
        """Let every sharer wait `wait_s` seconds from now."""
        await self._bucket.block(wait_s)

    async def aclose(self) -> None:
        """Close the connection to Redis, if there is one."""
        await self._bucket.aclose()

    async def _wait_for_token(self) -> float:
        began_ms = self._clock.real_ms()
        was_degraded = self._bucket.is_degraded
        while True:
            wait_ms = await self._bucket.take(self.rate, self.capacity)
            if self._bucket.is_degraded != was_degraded:
                was_degraded = self._bucket.is_degraded
                self._tell(is_degraded=was_degraded)
            SEAMLESS.limiter_tokens.labels(self.key).set(self._bucket.tokens)
            if wait_ms <= 0:
                return (self._clock.real_ms() - began_ms) / 1000
            await self._clock.sleep(wait_ms / 1000 * self._rng.uniform(1.0, 1.0 + _JITTER))

    def _tell(self, *, is_degraded: bool) -> None:
        SEAMLESS.limiter_degraded.labels(self.key).set(is_degraded)
        if is_degraded:
            _log.warning("seamless.rate_limiter.degraded", limiter=self.key, action="a slower local limit")
        else:
            _log.info("seamless.rate_limiter.recovered", limiter=self.key)


_buckets: WeakKeyDictionary[Clock, dict[str, TokenBucket]] = WeakKeyDictionary()
_semaphores: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, int], asyncio.Semaphore]] = (
    WeakKeyDictionary()
)


def _shared_bucket(clock: Clock, key: str, tokens: float | None = None) -> TokenBucket:
    return _buckets.setdefault(clock, {}).setdefault(key, TokenBucket(tokens))


def _shared_semaphore(key: str, places: int) -> asyncio.Semaphore:
    held = _semaphores.setdefault(asyncio.get_running_loop(), {})
    return held.setdefault((key, places), asyncio.Semaphore(places))


def _resolve_scope(config: RateLimiterConfig) -> tuple[Scope, str | None]:
    """Return the scope and the Redis address; ValueError for a cluster without one."""
    dsn = config.redis_dsn
    if dsn is None and config.scope in {None, "cluster"}:
        dsn = runtime.settings().connectors.ccxt_rate_limiter_redis
    scope: Scope = config.scope or ("cluster" if dsn else "process")
    if scope == "cluster" and not dsn:
        raise ValueError(
            "scope cluster needs redis_dsn, or connectors.ccxt_rate_limiter_redis in the configuration"
        )
    return scope, dsn


def open_limiter(
    key: str,
    config: RateLimiterConfig,
    *,
    rate_limit_ms: float | None = None,
    clock: Clock | None = None,
    rng: Random | None = None,
) -> Limiter:
    """Return the limiter of `key`; only inside a running loop. RuntimeError without the redis client."""
    clock = _SYSTEM if clock is None or isinstance(clock, SystemClock) else clock
    key = f"{key}:{config.key_suffix}" if config.key_suffix else key
    scope, dsn = _resolve_scope(config)
    places = config.max_concurrency
    bucket: _Bucket
    if scope == "local":
        bucket, semaphore = _LocalBucket(TokenBucket(), clock), asyncio.Semaphore(places)
    else:
        semaphore = _shared_semaphore(key, places)
        if scope == "cluster":
            try:
                import_module("redis")
            except ImportError:
                raise RuntimeError(
                    "redis is required for a shared rate limit; run: uv pip install -e .[ccxt]"
                ) from None
            fallback = _shared_bucket(clock, f"degraded {key}", tokens=0.0)
            bucket = RedisBucket(cast("str", dsn), key, clock, fallback, config.degraded_ratio)
        else:
            bucket = _LocalBucket(_shared_bucket(clock, key), clock)
    return Limiter(
        key,
        bucket,
        semaphore,
        rate=config.rate(rate_limit_ms),
        capacity=config.capacity,
        clock=clock,
        rng=rng or SystemRandom(),
    )


async def get_limiter(
    key: str, *, clock: Clock | None = None, rng: Random | None = None, **fields: Any
) -> Limiter:
    """Return the limiter of `key` with the fields of RateLimiterConfig: an async context manager.

    Fetchers use the key `ccxt:{exchange}`. ValueError for a wrong field.
    """
    return open_limiter(key, RateLimiterConfig(**fields), clock=clock, rng=rng)


def _set(config: RateLimiterConfig, name: str, value: object) -> None:
    object.__setattr__(config, name, value)


def _check_whole(name: str, value: object, at_least: int) -> None:
    if value is None and name != "max_concurrency":
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}: expected a whole number from {at_least}, got {value!r}")


def _check_number(
    name: str, value: object, *, above: float | None = None, at_least: float | None = None
) -> None:
    if value is None:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if not is_number or (above is not None and value <= above) or (at_least is not None and value < at_least):  # type: ignore[operator]
        bound = f"above {above}" if above is not None else f"from {at_least}"
        raise ValueError(f"{name}: expected a number {bound}, got {value!r}")
