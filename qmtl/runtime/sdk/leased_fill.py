"""A missing range among several workers: whoever has the lease fetches it, the others wait for coverage."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from qmtl.core.ranges import Range, merge_ranges, subtract_ranges
from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.filled_range import Filled, join_filled
from qmtl.runtime.sdk.history import SeriesKey, StaleFenceError, StaleLeaseError, StoreError
from qmtl.runtime.sdk.lease import Claim, Leases, log_lease
from qmtl.runtime.sdk.lease_keeper import LeaseKeeper, claim_kept

POLL_S = 0.25
"""So often a worker without the lease looks whether the range is covered."""
_MOST_LOSSES = 3

Confirm = Callable[[], Awaitable[None]]


class RangeSource(Protocol):
    """What fetches and looks up ranges; see GapFiller."""

    async def bring(
        self, key: SeriesKey, span: Range, fence: int | None = None, confirm: Confirm | None = None
    ) -> Filled:
        """Fetch one range and store it; `confirm` is asked before every write."""

    async def still_missing(self, key: SeriesKey, ranges: Sequence[Range]) -> list[Range]:
        """Return what the store does not cover."""

    async def read_stored(self, key: SeriesKey, span: Range) -> Filled:
        """Return what the store has of a range."""


class LeasedFill:
    """Fills ranges under leases of `owner`; where nobody can be asked, without."""

    def __init__(self, source: RangeSource, leases: Leases, owner: str, lease_ms: int, clock: Clock) -> None:
        self._source = source
        self._leases = leases
        self._owner = owner
        self._lease_ms = lease_ms
        self._clock = clock

    async def bring(self, key: SeriesKey, span: Range, world_id: str | None = None) -> Filled:
        """Return the range once it is covered, by us or by somebody else."""
        parts: list[Filled] = []
        left, losses = [span], 0
        while left:
            taken: list[Range] = []
            for start, end in left:
                claim, keepers = await self._claim(key, start, end, world_id)
                if not claim.is_reachable:
                    parts.append(await self._source.bring(key, (start, end)))
                    continue
                done = await asyncio.gather(*(self._run(key, one) for one in keepers), return_exceptions=True)
                for keeper, result in zip(keepers, done, strict=True):
                    if isinstance(result, Filled):
                        parts.append(result)
                    elif isinstance(result, StaleLeaseError | StaleFenceError) and losses < _MOST_LOSSES:
                        # Somebody else is at it now.
                        losses += 1
                        taken.append((keeper.lease.start, keeper.lease.end))
                    else:
                        raise result
                taken += [(one.start, one.end) for one in claim.conflicts]
            left = await self._wait_for_others(key, merge_ranges(taken), parts)
        return join_filled(key, parts)

    async def _claim(
        self, key: SeriesKey, start: int, end: int, world_id: str | None
    ) -> tuple[Claim, list[LeaseKeeper]]:
        try:
            return await claim_kept(
                self._leases,
                key,
                start,
                end,
                self._owner,
                self._lease_ms,
                world_id=world_id,
                clock=self._clock,
            )
        except StoreError as error:
            SEAMLESS.coordinator_up.set(0)
            log_lease("unavailable", key, world_id, self._owner, range=(start, end), reason=str(error))
            return Claim(is_reachable=False), []

    async def _run(self, key: SeriesKey, keeper: LeaseKeeper) -> Filled:
        return await keeper.run(self._work(key, keeper))

    async def _work(self, key: SeriesKey, keeper: LeaseKeeper) -> Filled:
        span = (keeper.lease.start, keeper.lease.end)
        # It may have been covered between our look and our claim.
        missing = await self._source.still_missing(key, [span])
        parts = [await self._source.read_stored(key, one) for one in subtract_ranges([span], missing)]
        for one in missing:
            parts.append(await self._source.bring(key, one, keeper.lease.fence, keeper.confirm))
            keeper.completion_ratio = (one[1] - span[0]) / (span[1] - span[0])
        return join_filled(key, parts)

    async def _wait_for_others(self, key: SeriesKey, taken: list[Range], parts: list[Filled]) -> list[Range]:
        """Return what of `taken` is still not covered after a while; what is goes to `parts`."""
        if not taken:
            return []
        await self._clock.sleep(POLL_S)
        missing = await self._source.still_missing(key, taken)
        parts += [await self._source.read_stored(key, one) for one in subtract_ranges(taken, missing)]
        return missing
