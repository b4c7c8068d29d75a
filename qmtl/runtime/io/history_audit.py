"""A store's rows against everything that is said of them: hashes, coverage, conformance, artifacts."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from qmtl.core.ranges import Range, clip_ranges, merge_ranges, subtract_ranges
from qmtl.runtime.io.artifacts import ArtifactReader
from qmtl.runtime.sdk.conformance import ConformancePipeline, ConformancePipelineError
from qmtl.runtime.sdk.fetch_plan import runs_of
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import (
    ArtifactCorruptError,
    CoverageSpan,
    HistoryStore,
    SeriesKey,
    StoreError,
)

_CELLS_A_READ = 200_000


class Difference(NamedTuple):
    """Something that is not as it should be: of which check, in [start, end), and what."""

    check: str
    start: int
    end: int
    what: str


async def audit_series(
    store: HistoryStore, key: SeriesKey, conformance: ConformancePipeline, artifacts: ArtifactReader | None
) -> AsyncIterator[Difference]:
    """Yield every difference of one series; `verify` of a store that has one compares files with hashes."""
    verify = getattr(store, "verify", None)
    if verify is not None:
        for fault in await verify(key):
            yield Difference("hash", fault.start, fault.end, f"{fault.path} {fault.reason}")
    spans = await store.coverage(key)
    for start, end in _pieces(spans, key.interval):
        async for difference in _audit_rows(store, key, spans, (start, end), conformance):
            yield difference
    if artifacts is not None:
        for line in artifacts.faults(key.node_id, key.interval):
            yield Difference("artifact", 0, 0, line)
        async for difference in _audit_artifacts(store, key, artifacts):
            yield difference


def _pieces(spans: list[CoverageSpan], step: int) -> list[Range]:
    """Return pieces that fit memory and together hold everything that is covered."""
    if not spans:
        return []
    width, last = _CELLS_A_READ * step, spans[-1].end
    whole = merge_ranges([(one.start, one.end) for one in spans])
    pieces = ((at, min(at + width, last)) for at in range(spans[0].start, last, width))
    return [piece for piece in pieces if clip_ranges(whole, *piece)]


async def _audit_rows(
    store: HistoryStore,
    key: SeriesKey,
    spans: list[CoverageSpan],
    piece: Range,
    conformance: ConformancePipeline,
) -> AsyncIterator[Difference]:
    try:
        rows = await store.read(key, *piece)
    except StoreError as error:
        yield Difference("rows", *piece, f"cannot be read: {error}")
        return
    is_bars = key.named.kind == "ohlcv"
    if is_bars:
        stored = [(one.start, one.end) for one in spans if one.kind in {"rows", "young"}]
        claimed = clip_ranges(merge_ranges(stored), *piece)
        held = runs_of(rows["ts"], key.interval)
        for start, end in subtract_ranges(claimed, held):
            yield Difference("coverage", start, end, "claimed as stored, and holds no rows")
        for start, end in subtract_ranges(held, claimed):
            yield Difference("coverage", start, end, "holds rows that coverage does not know of")
    try:
        _, report = conformance.normalize(
            rows, schema="ohlcv" if is_bars else "trades", interval=key.interval if is_bars else None
        )
    except ConformancePipelineError as error:
        report = error.report
    for line in report.warnings:
        if not line.startswith("gap:"):  # what is missing is coverage's to say
            yield Difference("conformance", *piece, line)


async def _audit_artifacts(
    store: HistoryStore, key: SeriesKey, artifacts: ArtifactReader
) -> AsyncIterator[Difference]:
    """Compare stored rows with the newest artifact of every range."""
    seen: list[Range] = []
    try:
        entries = list(artifacts.entries(key.node_id, key.interval))
    except ArtifactCorruptError:
        return  # named already
    for entry in entries:
        if not subtract_ranges([(entry.start, entry.end)], seen):
            continue
        seen = merge_ranges([*seen, (entry.start, entry.end)])
        try:
            rows = await store.read(key, entry.start, entry.end)
        except StoreError:
            continue  # named already
        named: Any = {
            "node_id": key.node_id,
            "interval": key.interval,
            "start": entry.start,
            "end": entry.end,
        }
        if fingerprint(rows, **named) != entry.fingerprint:
            what = f"stored rows are not those of artifact {entry.fingerprint[:19]}… (as of {entry.as_of})"
            yield Difference("artifact", entry.start, entry.end, what)
