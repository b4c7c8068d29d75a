"""How a request for history goes out: through the limiter, again while that can help, and counted."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

import structlog

from qmtl.core.ranges import Range, measure_ranges, merge_ranges
from qmtl.engine.ports import Clock, Random
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.history_rows import RowError
from qmtl.runtime.io.rate_limiter import Limiter
from qmtl.runtime.sdk.history import FetchError, InvalidPayloadError, RateLimitedError, RetryableFetchError

T = TypeVar("T")
BACKOFF_CAP_S = 30.0
BAN_S = 120.0
"""How long to keep quiet after a 418 that does not say."""
_WAITED_MS = 1_000
_OUTCOMES = (
    (InvalidPayloadError, "invalid"),
    (RateLimitedError, "rate_limited"),
    (RetryableFetchError, "failed"),
)
_log = structlog.get_logger("qmtl.seamless")


class Fault(NamedTuple):
    """What an exception of an exchange means: the error family, in words, and the wait it asked for."""

    kind: type[FetchError]
    reason: str
    retry_after_s: float | None = None
    is_ban: bool = False


class FaultJudge(Protocol):
    """Who knows an exchange's exceptions; others propagate."""

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The families that `judge` understands."""

    def judge(self, error: Exception) -> Fault:
        """Return what one of them means."""


@dataclass
class Job:
    """One fetch: for whom it asks, how many requests it sent, and when it waited for a token (real ms)."""

    node_id: str
    interval: int
    symbol: str
    began_ms: float
    requests: int = 0
    waits: list[Range] = field(default_factory=list)


class RequestLane:
    """The road of every request of one fetcher; `limiter` is opened with the lane, inside the loop."""

    def __init__(
        self,
        exchange: str,
        limiter: Limiter,
        judge: FaultJudge,
        *,
        max_retries: int,
        retry_backoff_s: float,
        penalty_backoff_ms: float | None,
        clock: Clock,
        rng: Random,
    ) -> None:
        self.exchange = exchange
        self.limiter = limiter
        self.loop = asyncio.get_running_loop()
        self._judge = judge
        self._max_retries = max_retries
        self._retry_backoff_s = retry_backoff_s
        self._penalty_s = (penalty_backoff_ms or 0.0) / 1000
        self._clock = clock
        self._rng = rng

    async def send(self, job: Job, window: Range, call: Callable[[], Awaitable[T]]) -> T:
        """Return what `call` answers, resent `max_retries` times; FetchError when that does not help."""
        known: tuple[type[Exception], ...] = (RowError, *self._judge.errors)
        attempt = 0
        while True:
            attempt += 1
            backoff_s = self._backoff_s(attempt)
            async with self.limiter as waited_s:
                self._note_wait(job, waited_s)
                job.requests += 1
                try:
                    answer = await call()
                except known as error:
                    failure, fault = self._explain(error, job, window, attempt)
                    if fault.kind is RateLimitedError:
                        # Before the slot is given back: the next in line must already be held.
                        backoff_s = await self._penalise(fault, backoff_s)
                    cause = error
                else:
                    SEAMLESS.exchange_requests.labels(self.exchange, "ok").inc()
                    return answer
            if not isinstance(failure, RetryableFetchError) or attempt > self._max_retries:
                raise failure from cause
            SEAMLESS.backfill_retry.labels(*SEAMLESS.series(job.node_id, job.interval)).inc()
            if fault.kind is not RateLimitedError:
                await self._clock.sleep(backoff_s)

    def _backoff_s(self, attempt: int) -> float:
        """Return a full-jitter delay before resend number `attempt`."""
        longest_s = min(BACKOFF_CAP_S, self._retry_backoff_s * 2.0 ** min(attempt - 1, 32))
        return self._rng.uniform(0.0, longest_s)

    async def _penalise(self, fault: Fault, backoff_s: float) -> float:
        asked_s = fault.retry_after_s
        if asked_s is None and fault.is_ban:
            asked_s = BAN_S
        wait_s = max(asked_s or 0.0, self._penalty_s, backoff_s)
        await self.limiter.penalise(wait_s)
        return wait_s

    def _explain(self, error: Exception, job: Job, window: Range, attempt: int) -> tuple[FetchError, Fault]:
        if isinstance(error, RowError):
            fault = Fault(InvalidPayloadError, str(error))
        else:
            fault = self._judge.judge(error)
        outcome = next((name for kind, name in _OUTCOMES if issubclass(fault.kind, kind)), "fatal")
        SEAMLESS.exchange_requests.labels(self.exchange, outcome).inc()
        text = f"{self.exchange} {job.symbol} [{window[0]}, {window[1]}): {fault.reason}"
        if attempt > 1:
            text += f" (attempt {attempt})"
        fields = {"exchange": self.exchange, "symbol": job.symbol, "window": window, "attempts": attempt}
        if issubclass(fault.kind, RateLimitedError):
            return fault.kind(text, retry_after_s=fault.retry_after_s, **fields), fault
        return fault.kind(text, **fields), fault  # type: ignore[arg-type]

    def _note_wait(self, job: Job, waited_s: float) -> None:
        if waited_s > 0:
            now_ms = round(self._clock.real_ms())
            job.waits.append((now_ms - round(waited_s * 1000), now_ms))

    def close_job(self, job: Job) -> None:
        """Say so when the fetch spent most of its time waiting for request slots."""
        wait_ms = measure_ranges(merge_ranges(job.waits))
        if wait_ms >= _WAITED_MS and wait_ms > (self._clock.real_ms() - job.began_ms) / 2:
            _log.warning(
                "seamless.backfill.rate_limited",
                message=f"waited {wait_ms} ms for {self.exchange}; lower batch_limit, raise min_interval_ms "
                "or share a Redis bucket",
                node_id=job.node_id,
                interval=job.interval,
            )
