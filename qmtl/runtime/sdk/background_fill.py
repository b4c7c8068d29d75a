"""Gaps that are filled while nobody waits: one job per series, asked again until nothing is missing."""

import asyncio
from collections.abc import Sequence
from functools import partial

import structlog

from qmtl.core.ranges import Range, merge_ranges, subtract_ranges
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.gap_filler import GapFiller
from qmtl.runtime.sdk.history import FetchError, SeamlessError, SeriesKey, StoreError

AGAIN_S = 60.0
"""A job that left something missing runs again after so long."""
_log = structlog.get_logger("qmtl.seamless")


class BackgroundFill:
    """Keeps filling what it was given until the store covers it or it is closed; one object per loop."""

    def __init__(self, filler: GapFiller, clock: Clock) -> None:
        self._filler = filler
        self._clock = clock
        self._wanted: dict[SeriesKey, list[Range]] = {}
        self._jobs: dict[SeriesKey, asyncio.Task[None]] = {}
        self.errors: dict[SeriesKey, BaseException] = {}
        """What the last run of a series failed with."""

    def want(self, key: SeriesKey, gaps: Sequence[Range]) -> None:
        """Have `gaps` filled; what a running job does not have yet is added to it, and starts at once."""
        known = self._wanted.get(key, [])
        fresh = subtract_ranges(merge_ranges(gaps), known)
        self._wanted[key] = merge_ranges([*known, *fresh])
        job = self._jobs.get(key)
        if job is None or job.done():
            self._jobs[key] = asyncio.get_running_loop().create_task(self._run(key))
            self._jobs[key].add_done_callback(partial(self._end, key))
        elif fresh:
            # What was asked for before waits for the job's next turn, however often it is asked again.
            self._filler.start(key, fresh)

    def _end(self, key: SeriesKey, job: "asyncio.Task[None]") -> None:
        """Keep what ended a job that no repetition can help, for the next answer to say."""
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self.errors[key] = error
            self._wanted.pop(key, None)
            _log.error(
                "seamless.backfill.ended", node_id=key.node_id, reason=str(error), action="no repetition"
            )

    async def _run(self, key: SeriesKey) -> None:
        while True:
            try:
                await self._fill(key, self._wanted[key])
                missing = await self._filler.still_missing(key, self._wanted[key])
            except (FetchError, SeamlessError, StoreError, OSError) as error:
                self.errors[key] = error
                missing = self._wanted[key]
                _log.warning(
                    "seamless.backfill.failed",
                    node_id=key.node_id,
                    interval=key.interval,
                    reason=str(error),
                    action=f"asks again in {AGAIN_S:g} s",
                )
            else:
                self.errors.pop(key, None)
            if not missing:
                del self._wanted[key]
                return
            self._wanted[key] = missing
            await self._clock.sleep(AGAIN_S)

    async def _fill(self, key: SeriesKey, asked: Sequence[Range]) -> None:
        missing = await self._filler.still_missing(key, asked)
        flights = self._filler.start(key, missing)
        await self._filler.wait(flights)
        for flight in flights:
            # A cancelled flight is no failure: its cells stay missing and are asked for again.
            if not flight.task.cancelled() and flight.error is not None:
                raise flight.error

    async def aclose(self) -> None:
        """Stop every job."""
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        self._jobs.clear()
        self._wanted.clear()
