"""Answers `as_of`: the artifact of that time, byte for byte, and no other source."""

import asyncio
from typing import Any

from qmtl.core.ranges import clip_ranges
from qmtl.runtime.sdk.fetch_plan import FetchWindow, explain_missing, left_after
from qmtl.runtime.sdk.fetch_result import FetchMetadata, SeamlessFetchResult
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.frame_cache import cut_frame
from qmtl.runtime.sdk.history import ArtifactNotFoundError
from qmtl.runtime.sdk.sla import SLAViolationMode


async def read_artifact(
    reader: Any,
    window: FetchWindow,
    as_of: int,
    *,
    world_id: str | None,
    domain: str | None,
    hold_reason: str | None,
) -> SeamlessFetchResult:
    """Return the rows of the newest artifact not younger than `as_of` that covers the window.

    ArtifactNotFoundError when there is none, ArtifactCorruptError when its bytes are not its own.
    """
    if reader is None:
        raise ArtifactNotFoundError(f"{window.key.node_id}: no artifacts are kept; as_of {as_of} needs one")
    return await asyncio.to_thread(_read, reader, window, as_of, world_id, domain, hold_reason)


def _read(
    reader: Any,
    w: FetchWindow,
    as_of: int,
    world_id: str | None,
    domain: str | None,
    hold_reason: str | None,
) -> SeamlessFetchResult:
    key = w.key
    name = reader.resolve(key.node_id, key.interval, as_of, w.start, w.end)
    manifest, whole = reader.manifest(name), reader.open(name)
    frame = cut_frame(whole, w.start, w.end)
    is_whole = frame.height == whole.height and list(manifest["range"]) == [w.start, w.end]
    empty = clip_ranges([(a, b) for a, b in manifest["confirmed_empty"]], w.first, w.last)
    present = clip_ranges([(a, b) for a, b in manifest["coverage"]], w.first, w.last)
    missing = left_after(w._replace(closed_until=w.last), present)
    cells = max(1, w.last - w.first)
    told = FetchMetadata(
        node_id=key.node_id,
        interval=key.interval,
        requested_range=(w.start, w.end),
        rows=frame.height,
        coverage_bounds=(present[0][0], present[-1][1]) if present else None,
        missing=explain_missing(missing, (), "no_source"),
        confirmed_empty=empty,
        coverage_ratio=1 - sum(b - a for a, b in missing) / cells,
        staleness_ms=(w.last - present[-1][1]) * 1000 if present else 0,
        stable_until=w.end,
        sources={"artifact": frame.height},
        dataset_fingerprint=name
        if is_whole
        else fingerprint(frame, node_id=key.node_id, interval=key.interval, start=w.start, end=w.end),
        as_of=manifest["as_of"],
        requested_as_of=as_of,
        manifest_uri=reader.manifest_uri(name),
        reproducible=True,
        world_id=world_id,
        execution_domain=domain,
    )
    if hold_reason is not None:
        told.hold = told.downgraded = True
        told.downgrade_mode, told.downgrade_reason = SLAViolationMode.HOLD.value, hold_reason
    return SeamlessFetchResult(frame, told)
