"""How an order is sent: what each outcome means, and never twice without proof."""

from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import TypeVar

import msgspec

from qmtl.core.order import BrokerageError, OrderValidationError
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.sdk.brokerage.result import (
    DomainViolation,
    InstrumentBlocked,
    OrderNotSent,
    OrderRejected,
    OrderUnknown,
    VenueUnavailable,
)

T = TypeVar("T")

MAX_RETRY_AFTER_S = 60.0
"""A venue that asks for more patience than this gets none: the caller decides."""
_MAX_PAUSE_S = 30.0


class Outcome(StrEnum):
    """What a failed attempt proves."""

    NOT_TAKEN = "not_taken"
    AMBIGUOUS = "ambiguous"
    FINAL = "final"


class Verdict(msgspec.Struct, frozen=True):
    """One failed attempt judged: `looks_first` means that the venue may hold the order already."""

    outcome: Outcome
    reason: str
    http_status: int | None = None
    retry_after_s: float | None = None
    looks_first: bool = False


class HttpStatusError(Exception):
    """A venue answered with a status outside 200-299."""

    def __init__(self, http_status: int, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"HTTP {http_status}: {reason}")
        self.http_status = http_status
        self.reason = reason
        self.retry_after_s = retry_after_s


NOT_TAKEN_STATUSES = frozenset({425, 429})


def classify_status(http_status: int) -> Outcome:
    """Return what an HTTP status outside 200-299 proves about the request."""
    if http_status in NOT_TAKEN_STATUSES:
        return Outcome.NOT_TAKEN
    if http_status == 408 or not 400 <= http_status < 500:
        return Outcome.AMBIGUOUS
    return Outcome.FINAL


def classify_error(error: Exception) -> Verdict:
    """Judge an HTTP attempt: a connection that never stood took nothing, all else may have."""
    reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, HttpStatusError):
        outcome = classify_status(error.http_status)
        is_conflict = error.http_status == 409
        return Verdict(outcome, error.reason, error.http_status, error.retry_after_s, is_conflict)
    return Verdict(Outcome.NOT_TAKEN if _never_connected(error) else Outcome.AMBIGUOUS, reason)


def _never_connected(error: Exception) -> bool:
    if isinstance(error, ConnectionRefusedError):
        return True
    import aiohttp

    # ConnectionTimeoutError covers waiting for the pool too; DNS and TLS are ClientConnectorError.
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def parse_retry_after(text: str | None, clock: Clock) -> float | None:
    """Return real seconds of a Retry-After header, given as seconds or as a date; None when it is neither."""
    if not text:
        return None
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        until_ms = parsedate_to_datetime(text).timestamp() * 1000
    except ValueError:
        return None
    return max(0.0, (until_ms - clock.now_ms()) / 1000 / clock.speed)


class SendPolicy:
    """Sends under one client id until the outcome is certain or the budget is spent.

    `max_retries` resends after the first attempt; pause k is uniform(0, min(30, backoff_s·2^(k-1))), at
    least what the venue asked for. `absence_window_s` is how long after a failed attempt the venue may
    still book it. All seconds are real. One instance serves one client: its holds bind every call.
    """

    def __init__(
        self,
        clock: Clock,
        random: Random,
        *,
        max_retries: int = 3,
        backoff_s: float = 0.1,
        absence_window_s: float = 5.0,
        classify: Callable[[Exception], Verdict] = classify_error,
    ) -> None:
        self._clock = clock
        self._random = random
        self._max_retries = max_retries
        self._backoff_s = backoff_s
        self._absence_window_s = absence_window_s
        self._classify = classify
        self._held_until_ms = 0.0

    async def send(
        self,
        client_order_id: str,
        attempt: Callable[[], Awaitable[T]],
        find: Callable[[], Awaitable[T | None]] | None,
    ) -> T:
        """Return the venue's answer to `attempt`, or what `find` found after a doubtful one.

        `attempt` sends once under `client_order_id`; `find` asks by it and returns None for proven
        absence, None instead of it means that the venue cannot be asked. Raises OrderRejected,
        OrderNotSent or OrderUnknown; an OrderValidationError or OrderRejected of `attempt` passes.
        """
        resends = 0
        while True:
            await self.wait_turn()
            try:
                return await attempt()
            except (OrderValidationError, DomainViolation, InstrumentBlocked, OrderRejected):
                raise
            except Exception as error:  # noqa: BLE001 - every other failure is an outcome to judge
                ended_ms = self._clock.real_ms()
                verdict = self._classify(error)
                cause = error
            if verdict.retry_after_s is not None:
                self.hold(verdict.retry_after_s)
            if verdict.outcome is Outcome.FINAL:
                found = await self._look(client_order_id, find, verdict) if verdict.looks_first else None
                if found is None:
                    raise OrderRejected(verdict.reason, verdict.http_status) from cause
                return found
            if verdict.outcome is Outcome.AMBIGUOUS:
                if find is None:
                    raise OrderUnknown(verdict.reason, client_order_id) from cause
                found = await self.prove(client_order_id, find, ended_ms)
                if found is not None:
                    return found
            if resends >= self._max_retries:
                raise OrderNotSent(verdict.reason, verdict.retry_after_s) from cause
            resends += 1
            await self.pause(resends)

    async def ask(self, question: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a harmless `question` (poll, cancel, lists), asked again within the budget.

        A final refusal is raised as it came; VenueUnavailable when no answer comes.
        """
        k = 0
        while True:
            try:
                await self.wait_turn()
                return await question()
            except OrderNotSent as error:
                raise VenueUnavailable(error.reason) from error
            except BrokerageError:
                raise
            except Exception as error:
                verdict = self._classify(error)
                if verdict.retry_after_s is not None:
                    self.hold(verdict.retry_after_s)
                if verdict.outcome is Outcome.FINAL:
                    raise
                k += 1
                if k > self._max_retries:
                    raise VenueUnavailable(verdict.reason) from error
            await self.pause(k)

    async def prove(
        self, client_order_id: str, find: Callable[[], Awaitable[T | None]], ended_ms: float
    ) -> T | None:
        """Return what `find` finds, or None once absence is proven twice.

        The second absence must come at least the absence window after `ended_ms` (real time), when the
        doubtful attempt was over. Raises OrderUnknown when too many lookups stay without answer.
        """
        unanswered = 0
        was_absent = False
        while True:
            try:
                await self.wait_turn()
                asked_ms = self._clock.real_ms()
                found = await find()
            except Exception as error:
                verdict = self._classify(error)
                if verdict.retry_after_s is not None:
                    self.hold(verdict.retry_after_s)
                unanswered += 1
                if unanswered > self._max_retries:
                    raise OrderUnknown(
                        f"no answer to a lookup ({verdict.reason})", client_order_id
                    ) from error
                await self.pause(unanswered)
                continue
            if found is not None:
                return found
            left_ms = ended_ms + self._absence_window_s * 1000 - asked_ms
            if was_absent and left_ms <= 0:
                return None
            was_absent = True
            await self._clock.sleep(max(0.0, left_ms / 1000))

    def hold(self, retry_after_s: float) -> None:
        """Keep every call of this client back for `retry_after_s` real seconds."""
        self._held_until_ms = max(self._held_until_ms, self._clock.real_ms() + retry_after_s * 1000)

    async def wait_turn(self) -> None:
        """Wait until the venue's own pause is over; OrderNotSent when that is too long to wait."""
        left_s = (self._held_until_ms - self._clock.real_ms()) / 1000
        if left_s > MAX_RETRY_AFTER_S:
            raise OrderNotSent(f"the venue asked to wait {left_s:.0f} s", retry_after_s=left_s)
        if left_s > 0:
            await self._clock.sleep(left_s)

    async def pause(self, k: int) -> None:
        """Wait before resend `k`, counted from 1."""
        pause_s = self._random.uniform(0, min(_MAX_PAUSE_S, self._backoff_s * 2 ** (k - 1)))
        await self._clock.sleep(pause_s)

    async def _look(
        self, client_order_id: str, find: Callable[[], Awaitable[T | None]] | None, verdict: Verdict
    ) -> T | None:
        if find is None:
            raise OrderUnknown(verdict.reason, client_order_id)
        # The venue says that it has the id: looking right away is enough to trust an absence.
        return await self.prove(client_order_id, find, self._clock.real_ms() - self._absence_window_s * 1000)
