"""Work under a lease: renewed while it runs, stopped before anybody else may begin."""

import asyncio
from collections.abc import Awaitable
from contextvars import ContextVar
from typing import TypeVar

from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.history import SeriesKey, StaleLeaseError, StoreError
from qmtl.runtime.sdk.lease import Claim, Lease, Leases, log_lease

T = TypeVar("T")
_STOP_AT = 0.9
"""Share of a lease's time after which an unrenewed writer stops: the rest is for it to come to a halt."""
_AT_WORK: ContextVar["LeaseKeeper | None"] = ContextVar("_AT_WORK", default=None)


async def confirm_lease() -> None:
    """See LeaseKeeper.confirm, of the keeper whose work this runs in; nothing outside of such work.

    For stores that cannot check a fence and write in one step.
    """
    keeper = _AT_WORK.get()
    if keeper is not None:
        await keeper.confirm()


class LeaseKeeper:
    """Keeps one lease for as long as its work runs.

    `since_ms` is `clock.real_ms()` before the claim was sent: from then on the lease is counted, on this
    machine's own clock, so that it ends here before it ends in the database. Whoever works sets
    `completion_ratio`; every renewal carries it.
    """

    def __init__(
        self,
        leases: Leases,
        lease: Lease,
        key: SeriesKey,
        owner: str,
        lease_ms: int,
        *,
        since_ms: float,
        clock: Clock,
        world_id: str | None = None,
    ) -> None:
        self.lease = lease
        self.completion_ratio = 0.0
        self.is_lost = False
        self._leases = leases
        self._name = (key, world_id, owner)
        self._lease_ms = lease_ms
        self._renewed_ms = since_ms
        self._clock = clock

    async def run(self, work: Awaitable[T]) -> T:
        """Return what `work` returns, the lease completed; StaleLeaseError when it was lost on the way.

        A lost lease cancels the work and waits until it has stopped. Work that fails or is cancelled frees
        the lease.
        """
        before = _AT_WORK.set(self)
        task = asyncio.ensure_future(work)  # a task keeps the context of this moment
        _AT_WORK.reset(before)
        guards = [asyncio.ensure_future(self._keep_renewing()), asyncio.ensure_future(self._watch())]
        try:
            await asyncio.wait([task, *guards], return_when=asyncio.FIRST_COMPLETED)
            self.is_lost = not task.done()
        finally:
            for each in (task, *guards):
                each.cancel()
            await asyncio.gather(task, *guards, return_exceptions=True)
            error = None if task.cancelled() else task.exception()
            if not self.is_lost and (task.cancelled() or error is not None):
                reason = f"{type(error).__name__}: {error}" if error else "cancelled"
                await self._tell(self._leases.fail(self.lease.token, reason[:500]))
        if self.is_lost:
            raise StaleLeaseError(f"{self._name[0].node_id}: lost the lease of {self.lease}") from error
        result = task.result()
        await self._tell(self._leases.complete(self.lease.token))
        return result

    async def confirm(self, max_age_ms: float = 1_000.0) -> None:
        """Return if the lease was renewed at most `max_age_ms` ago, renewing it if not; before each batch.

        StaleLeaseError when it is no longer ours. When nobody can be asked it is ours for 90 % of its time.
        """
        if self._clock.real_ms() - self._renewed_ms > max_age_ms:
            await self._renew()
        if self.is_lost or self._left_ms() <= 0:
            raise StaleLeaseError(f"{self._name[0].node_id}: lost the lease of {self.lease}")

    def _left_ms(self) -> float:
        return self._renewed_ms + _STOP_AT * self._lease_ms - self._clock.real_ms()

    async def _keep_renewing(self) -> None:
        wait_ms = self._renewed_ms + self._lease_ms / 3 - self._clock.real_ms()
        while True:
            await self._clock.sleep(max(0.0, wait_ms) / 1000)
            try:
                is_renewed = await self._renew()
            except StaleLeaseError:
                return
            wait_ms = self._lease_ms / (3 if is_renewed else 12)

    async def _watch(self) -> None:
        """Return when the lease was not renewed in time, however long an answer takes."""
        while (left_ms := self._left_ms()) > 0:
            await self._clock.sleep(left_ms / 1000)
        key, world_id, owner = self._name
        lease = self.lease
        log_lease(
            "expired",
            key,
            world_id,
            owner,
            range=(lease.start, lease.end),
            fence=lease.fence,
            completion_ratio=self.completion_ratio,
            reason="not renewed in time",
        )

    async def _renew(self) -> bool:
        asked_ms = self._clock.real_ms()
        ratio = min(1.0, max(0.0, self.completion_ratio))
        renewal = self._leases.renew(self.lease.token, self._lease_ms, ratio)
        if await self._tell(renewal) is None:
            return False
        self._renewed_ms = asked_ms
        return True

    @staticmethod
    async def _tell(telling: Awaitable[T]) -> T | None:
        """Return the answer, None when the lease database did not take it: a lease ends by itself."""
        try:
            return await telling
        except StoreError:
            return None


async def claim_kept(
    leases: Leases,
    key: SeriesKey,
    start: int,
    end: int,
    owner: str,
    lease_ms: int,
    *,
    world_id: str | None = None,
    clock: Clock | None = None,
) -> tuple[Claim, list[LeaseKeeper]]:
    """Claim a range and return a keeper for each lease, whose time counts from before the claim."""
    clock = clock or SystemClock()
    since_ms = clock.real_ms()
    claim = await leases.claim(key, start, end, owner, lease_ms, world_id=world_id)
    keepers = [
        LeaseKeeper(leases, lease, key, owner, lease_ms, since_ms=since_ms, clock=clock, world_id=world_id)
        for lease in claim.leases
    ]
    return claim, keepers
