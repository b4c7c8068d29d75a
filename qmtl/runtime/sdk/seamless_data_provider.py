"""History of any range: complete, or every hole named; from cache, store, exchange and live feed together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, NamedTuple, Protocol, Self
from weakref import WeakKeyDictionary

import polars as pl

from qmtl.core.ranges import Range, merge_ranges
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.artifact_stage import read_artifact
from qmtl.runtime.sdk.availability import (
    BackfillConfig,
    CacheConfig,
    DataAvailabilityStrategy,
    parse_strategy,
)
from qmtl.runtime.sdk.background_fill import BackgroundFill
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.domain_gate import DomainGate, parse_domain
from qmtl.runtime.sdk.fetch_plan import FetchWindow, check_request, plan_window
from qmtl.runtime.sdk.fetch_result import FetchMetadata, SeamlessFetchResult
from qmtl.runtime.sdk.fetch_run import Demands, FetchRun
from qmtl.runtime.sdk.fetch_sources import Stages
from qmtl.runtime.sdk.fetch_verdict import say_missing
from qmtl.runtime.sdk.frame_cache import FrameCache
from qmtl.runtime.sdk.gap_filler import GapFiller, exchange_second
from qmtl.runtime.sdk.history import HistoryStore, SeamlessUnavailableError, SeriesKey
from qmtl.runtime.sdk.live_tail import LiveTails
from qmtl.runtime.sdk.presets import load_presets
from qmtl.runtime.sdk.series_binding import SeriesBinding
from qmtl.runtime.sdk.sla import SLAPolicy

__all__ = [
    "BackfillConfig",
    "CacheConfig",
    "DataAvailabilityStrategy",
    "DataFetcher",
    "FetchMetadata",
    "LiveDataFeed",
    "SeamlessDataProvider",
    "SeamlessFetchResult",
]


class DataFetcher(Protocol):
    """Brings closed rows of a range from an exchange.

    One that also has `fetch_report` says what is confirmed empty; with `session` it is kept open while it
    is needed; `endpoint` tells production from test venues.
    """

    def fetch(self, start: int, end: int, *, node_id: str, interval: int) -> Awaitable[pl.DataFrame]:
        """Return the rows of [start, end)."""


class LiveDataFeed(Protocol):
    """Yields bars as they come; see `engine.ports.Feed` for its life."""

    def is_live_available(self, node_id: str, interval: int) -> Awaitable[bool]:
        """Tell whether the feed has the series."""

    def subscribe(self, node_id: str, interval: int) -> AsyncIterator[tuple[int, pl.DataFrame]]:
        """Yield (ts of the last row, rows); bars carry a Boolean `closed`."""

    def unsubscribe(self, node_id: str, interval: int) -> Awaitable[None]:
        """End every subscription of the series."""


class _Desk(NamedTuple):
    """What fills gaps and listens on one event loop."""

    filler: GapFiller
    background: BackgroundFill
    live: LiveTails | None

    async def aclose(self) -> None:
        """Stop everything; on its own loop."""
        await self.background.aclose()
        await self.filler.aclose()
        if self.live is not None:
            await self.live.aclose()


class SeamlessDataProvider:
    """Answers requests for history by its `strategy`; see the contract of each option in `availability`.

    `sla` is a policy or a preset's name, `conformance` a pipeline or a preset's name, `registrar` publishes
    artifacts, `reader` (else the registrar's) answers `as_of`, `coordinator` keeps workers from fetching a
    range twice. What is None comes from the configuration. Nothing is contacted before the first request.
    """

    def __init__(
        self,
        *,
        store: HistoryStore,
        fetcher: Any = None,
        live_feed: Any = None,
        strategy: DataAvailabilityStrategy | str = DataAvailabilityStrategy.SEAMLESS,
        cache: CacheConfig | None = None,
        sla: SLAPolicy | str | None = None,
        conformance: ConformancePipeline | str | None = None,
        partial_ok: bool | None = None,
        registrar: Any = None,
        reader: Any = None,
        stabilization_bars: int | None = None,
        backfill_config: BackfillConfig | None = None,
        coordinator: Any = None,
        default_node_id: str | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        settings = runtime.settings().seamless
        SEAMLESS.max_series = settings.metrics_max_series
        presets = load_presets(settings.presets_file)
        self.clock: Clock = clock or SystemClock()
        self.rng: Random = rng or SystemRandom()
        self.store = store
        self.fetcher = fetcher
        self.live_feed = live_feed
        self.strategy = parse_strategy(strategy)
        self.sla = sla if isinstance(sla, SLAPolicy) else presets.sla_policy(sla or settings.sla_preset)
        if not isinstance(conformance, ConformancePipeline):
            preset = presets.conformance_preset(conformance or settings.conformance_preset)
            conformance = ConformancePipeline(preset, partial_ok=partial_ok, clock=self.clock)
        self.conformance = conformance
        self.partial_ok = conformance.partial_ok if partial_ok is None else partial_ok
        self.registrar = registrar
        self._reader = getattr(registrar, "reader", None) if reader is None else reader
        given_bars = settings.stabilization_bars if stabilization_bars is None else stabilization_bars
        if given_bars < 0:
            raise ValueError(f"stabilization_bars: expected at least 0, got {given_bars}")
        self.stabilization_bars = given_bars
        self.backfill_config = backfill_config or BackfillConfig()
        self.coordinator = coordinator
        self._has_fingerprint = settings.publish_fingerprint
        cache = cache or CacheConfig(ttl_ms=settings.cache_ttl_ms)
        self._cache = FrameCache(ttl_ms=cache.ttl_ms, max_bytes=cache.max_bytes) if cache.enable else None
        self._grid_offset_s: int | None = getattr(getattr(fetcher, "config", None), "grid_offset_s", None)
        self._binding = SeriesBinding(fetcher, default_node_id)
        self._gate = DomainGate()
        connectors = runtime.settings().connectors
        self._owner = (
            connectors.seamless_worker_id or connectors.worker_id or f"worker-{self.rng.randbytes(4).hex()}"
        )
        self._desks: WeakKeyDictionary[asyncio.AbstractEventLoop, _Desk] = WeakKeyDictionary()

    # --- the published face -----------------------------------------------------------------------

    def bind_stream(self, stream: Any) -> None:
        """See HistoryProvider; the stream's `series` becomes the id of its series."""
        stream.series = self._binding.bind(stream)

    async def fetch(
        self,
        start: int,
        end: int,
        *,
        node_id: str,
        interval: int,
        world_id: str | None = None,
        execution_domain: str | None = None,
        as_of: int | None = None,
        min_coverage: float | None = None,
        max_lag_seconds: float | None = None,
    ) -> SeamlessFetchResult:
        """Return the closed rows with start <= ts < end, and where they came from.

        `as_of` (epoch seconds) reads the artifact of that time and nothing else. Raises NodeIdError and
        ValueError before any I/O, and what strategy, policy and domain demand: SeamlessUnavailableError,
        BackfillError, SeamlessSLAExceeded, SeamlessDomainPolicyError, ConformancePipelineError, StoreError.
        """
        key = self._binding.resolve(node_id, interval)
        domain = parse_domain(execution_domain)
        window = self._plan(key, start, end)
        check_request(0, 0 if as_of is None else as_of, interval)
        hold_reason = self._gate.admit(key.node_id, world_id, domain, as_of)
        if as_of is not None:
            answer = await read_artifact(
                self._reader, window, as_of, world_id=world_id, domain=domain, hold_reason=hold_reason
            )
            if answer.metadata.hold:
                SEAMLESS.domain_gate_holds.labels(*SEAMLESS.series(*key), hold_reason).inc()
            return answer
        demands = Demands(world_id, domain, min_coverage, max_lag_seconds)
        return await FetchRun(self._stages(), window, demands).run()

    async def coverage(self, *, node_id: str, interval: int) -> list[Range]:
        """Return the ranges that need no fetch, sorted and disjoint: rows and confirmed empty ones."""
        key = self._binding.resolve(node_id, interval)
        spans = await self.store.coverage(key, now=self.clock.now_ms() // 1000)
        return merge_ranges([(span.start, span.end) for span in spans])

    async def ensure_range(self, start: int, end: int, *, node_id: str, interval: int) -> None:
        """Return once nothing of the closed cells of [start, end) is missing, joining running jobs.

        SeamlessUnavailableError names what cannot be had.
        """
        key = self._binding.resolve(node_id, interval)
        window = self._plan(key, start, end)
        desk = self._desk()
        missing = await desk.filler.still_missing(key, window.closed)
        errors: list[BaseException] = []
        if missing and self.fetcher is not None:
            flights = desk.filler.start(key, missing)
            await desk.filler.wait(flights)
            errors = [flight.error for flight in flights if flight.error is not None]
            missing = await desk.filler.still_missing(key, missing)
        if missing:
            reason = "no_source" if self.fetcher is None else "failed" if errors else "pending"
            named = [(start, end, reason) for start, end in missing]
            cause = errors[0] if errors else None
            detail = "" if cause is None else f": {cause}"
            raise SeamlessUnavailableError(say_missing(node_id, named) + detail, named) from cause

    async def fill_missing(self, start: int, end: int, *, node_id: str, interval: int) -> None:
        """See `ensure_range`."""
        await self.ensure_range(start, end, node_id=node_id, interval=interval)

    async def ensure_data_available(self, start: int, end: int, *, node_id: str, interval: int) -> bool:
        """Tell whether `ensure_range` could have everything."""
        try:
            await self.ensure_range(start, end, node_id=node_id, interval=interval)
        except SeamlessUnavailableError:
            return False
        return True

    async def aclose(self) -> None:
        """Stop background work and release fetcher, feed, coordinator and store."""
        here = asyncio.get_running_loop()
        for loop, desk in list(self._desks.items()):
            if loop is here:
                await desk.aclose()
            elif loop.is_running():
                # The Runner's streams live on the loop of its own thread.
                await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(desk.aclose(), loop))
        self._desks.clear()
        for part in (self.fetcher, self.live_feed, self.coordinator, self.store):
            close = getattr(part, "aclose", None)
            if close is not None:
                await close()
        if self._cache is not None:
            self._cache.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        await self.aclose()

    # --- parts ------------------------------------------------------------------------------------

    def _plan(self, key: SeriesKey, start: int, end: int) -> FetchWindow:
        return plan_window(
            key,
            start,
            end,
            now_s=exchange_second(self.clock, self.fetcher),
            stabilization_bars=self.stabilization_bars,
            offset=self._grid_offset_s,
        )

    def _desk(self) -> _Desk:
        """Return the parts of the running loop: flights and locks belong to the loop they began on."""
        loop = asyncio.get_running_loop()
        desk = self._desks.get(loop)
        if desk is None:
            filler = GapFiller(
                self.store,
                self.fetcher,
                options=self.backfill_config,
                clock=self.clock,
                stabilization_bars=self.stabilization_bars,
                on_write=self._forget,
                leases=self.coordinator,
                owner=self._owner,
            )
            live = None if self.live_feed is None else LiveTails(self.live_feed, self.clock)
            desk = self._desks[loop] = _Desk(filler, BackgroundFill(filler, self.clock), live)
        return desk

    def _forget(self, key: SeriesKey, ranges: Sequence[Range]) -> None:
        if self._cache is not None:
            self._cache.forget(key, ranges)

    def _stages(self) -> Stages:
        desk = self._desk()
        return Stages(
            store=self.store,
            filler=None if self.fetcher is None else desk.filler,
            background=None if self.fetcher is None else desk.background,
            live=desk.live,
            cache=self._cache,
            conformance=self.conformance,
            registrar=self.registrar,
            policy=self.sla,
            strategy=self.strategy,
            partial_ok=self.partial_ok,
            continues=self.backfill_config.mode == "background",
            stabilization_bars=self.stabilization_bars,
            has_fingerprint=self._has_fingerprint,
            grid_offset_s=self._grid_offset_s,
            clock=self.clock,
        )
