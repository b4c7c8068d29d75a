"""The bucket that every worker of a cluster shares: one script call on Redis, by the server's time."""

import asyncio
from contextlib import suppress
from typing import Any

from qmtl.engine.ports import Clock
from qmtl.runtime.io.token_bucket import TokenBucket

PATIENCE_S = 0.25
"""A Redis that takes longer than this to answer counts as out of reach."""
_STALLS, _LATE_MS = 4, 20.0
PROBE_S = 5.0
"""How often a Redis that is out of reach is asked again."""

# KEYS[1] hash; ARGV: rate (0 = no limit), capacity. Answers {wait in ms, tokens left}.
_TAKE = """
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local rate, cap = tonumber(ARGV[1]), tonumber(ARGV[2])
local state = redis.call('HMGET', KEYS[1], 'tokens', 'ts', 'block_until')
local blocked = tonumber(state[3]) or 0
if now < blocked then return {blocked - now, state[1] or tostring(cap)} end
if rate <= 0 then return {0, '0'} end
local tokens = tonumber(state[1]) or cap
local passed = math.max(0, now - (tonumber(state[2]) or now))
tokens = math.min(cap, tokens + passed * rate / 1000)
local wait = 0
if tokens >= 1 then tokens = tokens - 1 else wait = math.ceil((1 - tokens) * 1000 / rate) end
redis.call('HSET', KEYS[1], 'tokens', tostring(tokens))
redis.call('HSET', KEYS[1], 'ts', now)
redis.call('PEXPIRE', KEYS[1], math.max(600000, math.ceil(2000 * cap / rate), blocked - now))
return {wait, tostring(tokens)}
"""
# KEYS[1] hash; ARGV: milliseconds from now. A barrier that stands longer stays.
_BLOCK = """
if redis.replicate_commands then redis.replicate_commands() end
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
local wanted = now + tonumber(ARGV[1])
local standing = tonumber(redis.call('HGET', KEYS[1], 'block_until')) or 0
if wanted > standing then redis.call('HSET', KEYS[1], 'block_until', wanted) end
redis.call('PEXPIRE', KEYS[1], math.max(600000, redis.call('PTTL', KEYS[1]), wanted - now))
return 0
"""


class RedisUnreachable(Exception):  # noqa: N818 - a state, not a fault of the caller
    """Redis failed or was slower than PATIENCE_S; the message says which."""


class RedisBucket:
    """One key's bucket in Redis, with a slower local one while Redis is out of reach.

    `fallback` gives `rate * degraded_ratio` in that time; `is_degraded` tells that it does.
    """

    def __init__(
        self, dsn: str, key: str, clock: Clock, fallback: TokenBucket, degraded_ratio: float
    ) -> None:
        self._dsn = dsn
        self._key = f"rl:{key}"
        self._clock = clock
        self._fallback = fallback
        self._degraded_ratio = degraded_ratio
        self._client: Any = None
        self._shas: dict[str, str] = {}
        self._probed_ms: float | None = None
        self.is_degraded = False
        self.tokens = 0.0

    async def take(self, rate: float | None, capacity: float) -> float:
        """See TokenBucket.take."""
        now_ms = self._clock.real_ms()
        if not self.is_degraded or now_ms - (self._probed_ms or 0.0) >= PROBE_S * 1000:
            self._probed_ms = now_ms
            try:
                wait, tokens = await self._run(_TAKE, rate or 0, capacity)
            except RedisUnreachable:
                self.is_degraded = True
            else:
                self.is_degraded = False
                self.tokens = float(tokens)
                return float(wait)
        slower = None if rate is None else rate * self._degraded_ratio
        wait_ms = self._fallback.take(self._clock.real_ms(), slower, 1.0)
        self.tokens = self._fallback.tokens
        # Nobody sleeps past the next look at Redis.
        return min(wait_ms, PROBE_S * 1000)

    async def block(self, wait_s: float) -> None:
        """Let every sharer wait `wait_s` seconds; those of this process at least, without Redis."""
        self._fallback.block(self._clock.real_ms() + wait_s * 1000)
        with suppress(RedisUnreachable):
            await self._run(_BLOCK, round(wait_s * 1000))

    async def aclose(self) -> None:
        """Close the connection; the next use opens another."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _run(self, script: str, *arguments: float) -> Any:
        """Return what `script` answers within PATIENCE_S."""
        if self._client is None:
            self._client = _connect(self._dsn)
        task = asyncio.ensure_future(self._evaluate(self._client, script, arguments))
        try:
            for _ in range(_STALLS):
                before_ms = self._clock.real_ms()
                done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
                late_ms = self._clock.real_ms() - before_ms - PATIENCE_S * 1000
                # A loop that stood still is not a slow Redis: what came meanwhile is still to be read.
                if done or late_ms < _LATE_MS:
                    break
            if not task.done():
                raise RedisUnreachable(f"no answer within {PATIENCE_S * 1000:.0f} ms")
            return task.result()
        finally:
            if not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError, RedisUnreachable):
                    await task

    async def _evaluate(self, client: Any, script: str, arguments: tuple[float, ...]) -> Any:
        from redis.exceptions import NoScriptError, RedisError

        try:
            if script not in self._shas:
                self._shas[script] = await client.script_load(script)
            try:
                return await client.evalsha(self._shas[script], 1, self._key, *arguments)
            except NoScriptError:
                # Redis was started anew and forgot it.
                self._shas[script] = await client.script_load(script)
                return await client.evalsha(self._shas[script], 1, self._key, *arguments)
        except (RedisError, OSError) as error:
            raise RedisUnreachable(f"{type(error).__name__}") from error


def _connect(dsn: str) -> Any:
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        dsn,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
    )
