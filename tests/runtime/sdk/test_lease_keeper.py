"""Work under a lease stops before anybody else may begin; time is virtual here."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.sdk.history import StaleLeaseError, StoreError
from qmtl.runtime.sdk.lease import Claim, Inspection, Lease
from qmtl.runtime.sdk.lease_keeper import LeaseKeeper, claim_kept
from tests.runtime.lease_rig import BARS

TTL_MS = 120_000
LEASE = Lease("t" * 32, 0, 600, 7, 0)


class Answers:
    """A lease table that answers each renewal as told, and notes what it was told and when."""

    def __init__(self, clock: VirtualClock, *renewals: int | Exception | None) -> None:
        self.clock = clock
        self.renewals = list(renewals)
        self.told: list[tuple[str, float]] = []
        self.ratios: list[float | None] = []
        self.delay: Callable[[], Awaitable[None]] | None = None
        self.completing: Exception | None = None

    async def claim(
        self, key: object, start: int, end: int, owner: str, lease_ms: int, *, world_id: str | None = None
    ) -> Claim:
        return Claim([LEASE])

    async def renew(self, token: str, lease_ms: int, completion_ratio: float | None = None) -> int | None:
        assert token == LEASE.token
        self.told.append(("renew", self.clock.real_ms() / 1000))
        self.ratios.append(completion_ratio)
        if self.delay is not None:
            await self.delay()
        answer = self.renewals.pop(0) if self.renewals else 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def complete(self, token: str) -> bool:
        self.told.append(("complete", self.clock.real_ms() / 1000))
        if self.completing is not None:
            raise self.completing
        return True

    async def fail(self, token: str, reason: str) -> bool:
        self.told.append((f"fail {reason}", self.clock.real_ms() / 1000))
        return True

    async def inspect(self, node_id: str | None = None, interval: int | None = None) -> Inspection:
        return Inspection()

    async def aclose(self) -> None:
        pass


class Writer:
    """Writes once a second and can tell when it stopped."""

    def __init__(self, clock: VirtualClock, seconds: int) -> None:
        self.clock = clock
        self.seconds = seconds
        self.wrote_s: list[float] = []

    async def write(self) -> str:
        for _ in range(self.seconds):
            self.wrote_s.append(self.clock.real_ms() / 1000)
            await self.clock.sleep(1)
        return "written"


async def keep(clock: VirtualClock, answers: Answers) -> LeaseKeeper:
    _, [keeper] = await claim_kept(answers, BARS, 0, 600, "w", TTL_MS, clock=clock)
    return keeper


async def test_renews_at_a_third_and_completes() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    keeper = await keep(clock, answers)
    keeper.completion_ratio = 0.5
    running = asyncio.ensure_future(keeper.run(Writer(clock, 100).write()))
    await clock.advance(101)
    assert await running == "written"
    assert answers.told == [("renew", 40.0), ("renew", 80.0), ("complete", 100.0)]
    assert answers.ratios == [0.5, 0.5]


@pytest.mark.parametrize("nothing", [None, StoreError("busy")])
async def test_an_unrenewed_writer_stops_at_nine_tenths(nothing: Exception | None) -> None:
    clock = VirtualClock()
    answers = Answers(clock, 1, *([nothing] * 20))
    keeper = await keep(clock, answers)
    writer = Writer(clock, 1000)
    running = asyncio.ensure_future(keeper.run(writer.write()))
    await clock.advance(400)
    with pytest.raises(StaleLeaseError, match=r"BTC/USDT%3AUSDT:1m: lost the lease of .*\[0, 600\)"):
        await running
    # Renewed at 40 s, so stopped 108 s later; meanwhile it asked again every 10 s.
    assert writer.wrote_s[-1] == 147
    assert [at for _, at in answers.told] == [40.0, *range(80, 150, 10)]
    assert keeper.is_lost
    with pytest.raises(StaleLeaseError):
        await keeper.confirm()


async def test_a_late_answer_does_not_keep_the_writer_alive() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    answers.delay = lambda: clock.sleep(10_000)
    writer = Writer(clock, 1000)
    running = asyncio.ensure_future((await keep(clock, answers)).run(writer.write()))
    await clock.advance(200)
    with pytest.raises(StaleLeaseError):
        await running
    assert writer.wrote_s[-1] == 107


async def test_a_lease_taken_over_stops_the_writer_at_once() -> None:
    clock = VirtualClock()
    answers = Answers(clock, StaleLeaseError("taken over"))
    writer = Writer(clock, 1000)
    running = asyncio.ensure_future((await keep(clock, answers)).run(writer.write()))
    await clock.advance(60)
    with pytest.raises(StaleLeaseError):
        await running
    assert writer.wrote_s[-1] <= 40
    assert [word for word, _ in answers.told] == ["renew"], "what was taken over is not given up again"


async def test_work_that_fails_frees_the_lease() -> None:
    clock = VirtualClock()
    answers = Answers(clock)

    async def fail() -> None:
        raise ConnectionError("no route")

    with pytest.raises(ConnectionError, match="no route"):
        await (await keep(clock, answers)).run(fail())
    assert [word for word, _ in answers.told] == ["fail ConnectionError: no route"]


async def test_cancelled_work_frees_the_lease_after_it_stopped() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    stopped = []

    async def work() -> None:
        try:
            await clock.sleep(1000)
        finally:
            stopped.append(len(answers.told))

    running = asyncio.ensure_future((await keep(clock, answers)).run(work()))
    await clock.advance(1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert stopped == [0]
    assert [word for word, _ in answers.told] == ["fail cancelled"]


async def test_a_stale_completion_is_no_success() -> None:
    clock = VirtualClock()
    answers = Answers(clock)
    answers.completing = StaleLeaseError("ran out")
    running = asyncio.ensure_future((await keep(clock, answers)).run(Writer(clock, 1).write()))
    await clock.advance(2)
    with pytest.raises(StaleLeaseError, match="ran out"):
        await running
    answers.completing = StoreError("unreachable")
    running = asyncio.ensure_future((await keep(clock, answers)).run(Writer(clock, 1).write()))
    await clock.advance(2)
    assert await running == "written", "a lease that cannot be ended ends by itself"


async def test_each_batch_is_confirmed_by_a_fresh_renewal() -> None:
    clock = VirtualClock()
    answers = Answers(clock, 1, None, StaleLeaseError("taken over"))
    keeper = await keep(clock, answers)
    await keeper.confirm()
    assert answers.told == []
    await clock.advance(1.5)
    await keeper.confirm()
    await keeper.confirm()
    assert answers.told == [("renew", 1.5)]
    await clock.advance(2)
    await keeper.confirm()
    await clock.advance(2)
    with pytest.raises(StaleLeaseError, match="taken over"):
        await keeper.confirm()
