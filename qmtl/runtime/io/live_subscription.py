"""One live series: rows pumped from a stream, and whatever the stream missed asked for by REST first."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import structlog

from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.history_rows import RowError
from qmtl.runtime.io.request_lane import FaultJudge
from qmtl.runtime.sdk.backoff import Reconnect
from qmtl.runtime.sdk.history import FetchError, InvalidPayloadError, RetryableFetchError

if TYPE_CHECKING:
    import polars as pl

_FILL_AGAIN_S, _FILL_AGAIN_CAP_S = 5.0, 60.0
_PATIENCE_CAP_S = 60.0
_log = structlog.get_logger("qmtl.seamless")


class LiveSubscription:
    """Base of a subscription: `run` yields (ts of the last row, rows) until `end`.

    `judge` tells which exceptions of the stream mean a break, `drop` closes the stream's sockets. Subclasses
    say how to watch, how to fill what was missed, and how to ask whether REST knows more.
    """

    def __init__(
        self,
        exchange: str,
        judge: FaultJudge,
        drop: Callable[[], Awaitable[None]],
        reconnect: Reconnect,
        *,
        first_delays_ms: Sequence[float],
        stall_timeout_s: float,
        buffer_rows: int,
        has_rest: bool,
        clock: Clock,
    ) -> None:
        self._exchange = exchange
        self._judge = judge
        self._drop = drop
        self._reconnect = reconnect
        self._first_delays_ms = first_delays_ms
        self._stall_timeout_s = stall_timeout_s
        self._has_rest = has_rest
        self._clock = clock
        self._buffer: deque[Any] = deque(maxlen=buffer_rows)
        self._wake = asyncio.Event()
        self._watching: asyncio.Future[Sequence[Any]] | None = None
        self._pumping: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._patience_s = stall_timeout_s
        self._heard_ms = 0.0
        self._fill_at_ms: float | None = None
        self._fill_again_s = _FILL_AGAIN_S
        self._is_broken = False
        self._is_open = False
        self._is_pausing = False
        self._is_ended = False

    # --- what a subclass knows ------------------------------------------------------------------------

    async def _watch(self) -> Sequence[Any]:
        """Wait for rows of the stream and return them."""
        raise NotImplementedError

    def _take(self) -> "list[tuple[int, pl.DataFrame]]":
        """Work off the buffer; what must wait for a fill stays in it."""
        raise NotImplementedError

    def _fill(self) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        """Yield what was missed until now."""
        raise NotImplementedError

    def _interrupt(self) -> None:
        """Take note that rows were missed."""

    async def _is_behind(self) -> bool:
        """Tell whether REST knows something newer than the stream gave."""
        raise NotImplementedError

    async def _on_time(self) -> "list[tuple[int, pl.DataFrame]]":
        """Return what is due by the clock."""
        return []

    def _due_s(self) -> float | None:
        """Return the real seconds until `_on_time` has something to do, None when nothing is pending."""
        return None

    # --- life -----------------------------------------------------------------------------------------

    async def run(self) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        """Yield rows; FetchError when the exchange refuses the series."""
        self._heard_ms = self._clock.real_ms()
        pump = self._pumping = asyncio.create_task(self._pump())
        try:
            while not self._is_ended:
                self._wake.clear()
                if self._fill_at_ms is not None:
                    if self._clock.real_ms() >= self._fill_at_ms:
                        async with aclosing(self._refill()) as items:
                            async for item in items:
                                yield item
                elif self._buffer:
                    for item in self._take_checked():
                        yield item
                for item in await self._on_time():
                    yield item
                if self._failure is not None and not self._is_ended:
                    raise self._failure
                await self._check_stall()
                if self._fill_at_ms is not None or not self._buffer:
                    await self._idle()
        finally:
            pump.cancel()
            await asyncio.gather(pump, return_exceptions=True)

    def _take_checked(self) -> "list[tuple[int, pl.DataFrame]]":
        try:
            return self._take()
        except RowError as error:
            raise InvalidPayloadError(f"{self._exchange}: {error}", exchange=self._exchange) from error

    def end(self) -> None:
        """End `run` after what it is at; the stream is left at once."""
        self._is_ended = True
        if self._pumping is not None:
            self._pumping.cancel()
        self._wake.set()

    async def _idle(self) -> None:
        """Wait for rows, a break, or the next thing that time brings."""
        now_ms = self._clock.real_ms()
        waits_s = [_PATIENCE_CAP_S]
        if not self._is_pausing and self._has_rest:
            waits_s.append((self._heard_ms - now_ms) / 1000 + self._patience_s)
        if self._fill_at_ms is not None:
            waits_s.append((self._fill_at_ms - now_ms) / 1000)
        if (due_s := self._due_s()) is not None:
            waits_s.append(due_s)
        if self._wake.is_set():
            return
        tasks = [
            asyncio.ensure_future(self._wake.wait()),
            asyncio.ensure_future(self._clock.sleep(max(0.0, min(waits_s)))),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # --- what was missed ------------------------------------------------------------------------------

    def _miss(self) -> None:
        """Let a fill precede every further row."""
        self._interrupt()
        if self._has_rest:
            self._fill_at_ms = self._clock.real_ms()
        self._wake.set()

    async def _refill(self) -> "AsyncGenerator[tuple[int, pl.DataFrame]]":
        self._fill_at_ms = None
        try:
            async with aclosing(self._fill()) as items:
                async for item in items:
                    yield item
            self._fill_again_s = _FILL_AGAIN_S
        except RetryableFetchError as error:
            _log.warning("seamless.live.fill_failed", exchange=self._exchange, reason=str(error))
            if not self._is_broken:
                # Newer rows wait: they may not overtake what is missing. After a break its end asks anew.
                self._fill_at_ms = self._clock.real_ms() + self._fill_again_s * 1000
                self._fill_again_s = min(_FILL_AGAIN_CAP_S, 2 * self._fill_again_s)

    async def _check_stall(self) -> None:
        """After a silence ask REST: nothing newer is a quiet market, anything newer a dead stream."""
        now_ms = self._clock.real_ms()
        if self._is_pausing or not self._has_rest or now_ms - self._heard_ms < self._patience_s * 1000:
            return
        self._heard_ms = now_ms
        try:
            is_behind = await self._is_behind()
        except FetchError:
            is_behind = False
        if self._buffer:
            # It spoke while REST was asked.
            return
        if not is_behind:
            self._patience_s = min(_PATIENCE_CAP_S, 2 * self._patience_s)
            return
        _log.warning("seamless.live.stalled", exchange=self._exchange, action="fills and reconnects")
        self._patience_s = self._stall_timeout_s
        self._miss()
        if self._watching is not None:
            self._watching.cancel()
        await self._drop()

    # --- the stream -----------------------------------------------------------------------------------

    async def _pump(self) -> None:
        """Move rows of the stream into the buffer, over breaks, until cancelled or refused."""
        while True:
            watching = self._watching = asyncio.ensure_future(self._watch())
            try:
                await asyncio.wait({watching})
            finally:
                watching.cancel()
            error = None if watching.cancelled() else watching.exception()
            if error is None and not watching.cancelled():
                self._hear(watching.result())
            elif error is None or self._is_break(error):
                await self._pause(error)
            else:
                self._failure = self._explain(error)
                self._wake.set()
                return

    def _is_break(self, error: BaseException) -> bool:
        if not isinstance(error, self._judge.errors):
            return False
        return issubclass(self._judge.judge(error).kind, RetryableFetchError)

    def _explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, self._judge.errors):
            return error
        fault = self._judge.judge(error)
        failure = fault.kind(f"{self._exchange}: {fault.reason}", exchange=self._exchange)
        failure.__cause__ = error
        return failure

    def _hear(self, rows: Sequence[Any]) -> None:
        if not rows:
            return
        if self._is_broken:
            self._is_broken = False
            SEAMLESS.live_reconnects.labels(self._exchange).inc()
            # The stream begins here; what happened before it is asked for.
            self._miss()
        if not self._is_open:
            self._is_open = True
            self._reconnect.opened()
        self._heard_ms = self._clock.real_ms()
        self._patience_s = self._stall_timeout_s
        room = (self._buffer.maxlen or 0) - len(self._buffer)
        if len(rows) > room:
            self._miss()
        self._buffer.extend(rows)
        self._wake.set()

    async def _pause(self, error: BaseException | None) -> None:
        """Wait before the next connection; the first break of a row has its gap filled at once."""
        number = 0 if self._reconnect.is_lasting() else self._reconnect.breaks
        self._is_open = False
        delay_s = self._reconnect.broke() or 0.0
        if number < len(self._first_delays_ms):
            delay_s = self._first_delays_ms[number] / 1000
        reason = type(error).__name__ if error is not None else "closed"
        _log.info("seamless.live.broken", exchange=self._exchange, reason=reason, delay_s=round(delay_s, 3))
        if not self._is_broken:
            self._is_broken = True
            self._miss()
        self._is_pausing = True
        try:
            await self._clock.sleep(delay_s)
        finally:
            self._is_pausing = False
        # The next connection has its own time to speak.
        self._heard_ms = self._clock.real_ms()
        self._wake.set()
