"""No blind retry: what is sent again was proven absent first (connectors.md §2)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from hypothesis import given
from hypothesis import strategies as st

from qmtl.core.order import OrderValidationError
from qmtl.engine.clock import SeededRandom
from qmtl.runtime.sdk.brokerage.result import OrderNotSent, OrderRejected, OrderUnknown
from qmtl.runtime.sdk.brokerage.send_policy import (
    HttpStatusError,
    Outcome,
    SendPolicy,
    classify_error,
    classify_status,
    parse_retry_after,
)
from tests.runtime.leap_clock import LeapClock, MidRandom

REFUSED = ConnectionRefusedError(111, "refused")


class Broker:
    """Plays a script of outcomes for sends and for lookups; an exception is raised, all else returned."""

    def __init__(
        self, sends: list[object], finds: list[object] | None = None, clock: LeapClock | None = None
    ):
        self.clock = clock or LeapClock()
        self.sent_at: list[float] = []
        self.found_at: list[float] = []
        self._sends, self._finds = iter(sends), iter(finds or [])

    def _next(self, script: Iterator[object], times: list[float]) -> object:
        times.append(self.clock.real_ms() / 1000)
        step = next(script)
        if isinstance(step, Exception):
            raise step
        return step

    async def attempt(self) -> object:
        return self._next(self._sends, self.sent_at)

    async def find(self) -> object | None:
        return self._next(self._finds, self.found_at)

    async def send(self, max_retries: int = 3, find: Callable[[], Awaitable[object]] | None = None) -> object:
        policy = SendPolicy(self.clock, MidRandom(), max_retries=max_retries)
        return await policy.send("q1", self.attempt, find or self.find)


def status(code: int, retry_after_s: float | None = None) -> HttpStatusError:
    return HttpStatusError(code, "says the venue", retry_after_s)


def test_the_table_of_statuses() -> None:
    assert {classify_status(code) for code in (425, 429)} == {Outcome.NOT_TAKEN}
    assert {classify_status(code) for code in (302, 408, 500, 502, 503, 504)} == {Outcome.AMBIGUOUS}
    assert {classify_status(code) for code in (400, 401, 403, 404, 409, 422)} == {Outcome.FINAL}
    assert classify_error(status(409)).looks_first


def test_the_table_of_errors() -> None:
    key = ConnectionKey("h", 1, False, True, None, None, None)
    not_taken: list[Exception] = [
        REFUSED,
        aiohttp.ClientConnectorError(key, REFUSED),
        aiohttp.ClientConnectorDNSError(key, OSError("no such host")),
        aiohttp.ClientConnectorSSLError(key, OSError("handshake")),
        aiohttp.ConnectionTimeoutError("pool"),
    ]
    ambiguous: list[Exception] = [
        aiohttp.ServerDisconnectedError(),
        aiohttp.SocketTimeoutError("read"),
        aiohttp.ClientOSError(104, "reset"),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
        RuntimeError("anything else"),
    ]
    assert {classify_error(error).outcome for error in not_taken} == {Outcome.NOT_TAKEN}
    assert {classify_error(error).outcome for error in ambiguous} == {Outcome.AMBIGUOUS}


async def test_an_answer_is_returned_at_once() -> None:
    broker = Broker(["rejected is an answer too"])
    assert await broker.send() == "rejected is an answer too"
    assert broker.clock.slept == []


async def test_a_final_refusal_is_sent_once_without_pause() -> None:
    broker = Broker([status(400)])
    with pytest.raises(OrderRejected, match="says the venue") as caught:
        await broker.send()
    assert (caught.value.http_status, len(broker.sent_at), broker.clock.slept) == (400, 1, [])


async def test_connection_refused_spends_the_budget() -> None:
    broker = Broker([REFUSED] * 4)
    with pytest.raises(OrderNotSent):
        await broker.send(max_retries=3)
    assert len(broker.sent_at) == 4
    # Full jitter in the middle: half of 0.1, 0.2 and 0.4 seconds.
    assert broker.clock.slept == pytest.approx([0.05, 0.1, 0.2])
    once = Broker([REFUSED])
    with pytest.raises(ConnectionError):
        await once.send(max_retries=0)


async def test_retry_after_is_honoured() -> None:
    broker = Broker([status(429, 2.0), "ok"])
    assert await broker.send() == "ok"
    assert broker.sent_at[1] - broker.sent_at[0] >= 2.0


async def test_a_long_retry_after_raises_and_holds_every_call() -> None:
    clock = LeapClock()
    broker = Broker([status(429, 61.0), "too early"], clock=clock)
    policy = SendPolicy(clock, MidRandom())
    with pytest.raises(OrderNotSent) as caught:
        await policy.send("q1", broker.attempt, broker.find)
    assert caught.value.retry_after_s == pytest.approx(61, abs=1)
    with pytest.raises(OrderNotSent):
        await policy.send("q2", broker.attempt, broker.find)
    assert len(broker.sent_at) == 1


async def test_an_ambiguous_send_that_arrived_is_found_not_repeated() -> None:
    broker = Broker([TimeoutError()], ["the order"])
    assert await broker.send() == "the order"
    assert len(broker.sent_at) == 1


async def test_absent_at_once_present_after_three_seconds_is_one_order() -> None:
    broker = Broker([status(503)], [None, "the order"])
    assert await broker.send() == "the order"
    assert len(broker.sent_at) == 1


async def test_absence_is_proven_twice_a_window_apart_before_a_resend() -> None:
    broker = Broker([TimeoutError(), "ok"], [None, None])
    assert await broker.send() == "ok"
    assert broker.found_at[1] - broker.sent_at[0] >= 5.0
    assert broker.sent_at[1] > broker.found_at[1]


async def test_no_answer_to_lookups_is_unknown() -> None:
    broker = Broker([status(503)], [status(503)] * 4)
    with pytest.raises(OrderUnknown):
        await broker.send(max_retries=3)
    assert (len(broker.sent_at), len(broker.found_at)) == (1, 4)


async def test_a_venue_that_cannot_be_asked_is_never_sent_to_again() -> None:
    clock = LeapClock()
    broker = Broker([TimeoutError()], clock=clock)
    with pytest.raises(OrderUnknown):
        await SendPolicy(clock, MidRandom()).send("q1", broker.attempt, None)
    assert len(broker.sent_at) == 1


async def test_a_duplicate_is_looked_up_before_it_is_refused() -> None:
    assert await Broker([status(409)], ["the order"]).send() == "the order"
    with pytest.raises(OrderRejected):
        await Broker([status(409)], [None, None]).send()


async def test_a_bad_order_and_a_cancelled_wait_pass_through() -> None:
    with pytest.raises(OrderValidationError):
        await Broker([OrderValidationError("quantity: must not be 0")]).send()

    async def hang() -> object:
        await asyncio.Event().wait()
        return None

    task = asyncio.create_task(SendPolicy(LeapClock(), MidRandom()).send("q1", hang, None))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_retry_after_as_seconds_and_as_date() -> None:
    clock = LeapClock(now_ms=1_700_000_000_000)
    assert parse_retry_after("2", clock) == 2.0
    date = format_datetime(datetime.fromtimestamp(1_700_000_030, UTC), usegmt=True)
    assert parse_retry_after(date, clock) == pytest.approx(30)
    assert parse_retry_after(date, LeapClock(now_ms=1_700_000_000_000, speed=60)) == pytest.approx(0.5)
    assert parse_retry_after("soon", clock) is None
    assert parse_retry_after(None, clock) is None


@given(seed=st.integers(0, 2**32))
def test_whatever_the_network_does_the_venue_holds_at_most_one_order(seed: int) -> None:
    random, clock, book = SeededRandom(seed), LeapClock(), []

    async def attempt() -> str:
        if random.uniform(0, 1) < 0.3:
            raise REFUSED
        book.append("q1")
        if random.uniform(0, 1) < 0.6:
            raise TimeoutError
        return "q1"

    async def find() -> str | None:
        if random.uniform(0, 1) < 0.3:
            raise TimeoutError
        return "q1" if book else None

    async def play() -> str:
        try:
            return await SendPolicy(clock, random).send("q1", attempt, find)
        except OrderUnknown:
            return "unknown"
        except OrderNotSent:
            return "not sent"

    outcome = asyncio.run(play())
    assert len(book) <= 1
    assert outcome != "not sent" or not book
    assert outcome != "q1" or book
