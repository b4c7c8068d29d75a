"""Leases on ranges of history: who may fetch and write which cells, across processes and machines.

One vocabulary for two homes: `qmtl.runtime.io.leases.LeaseStore` keeps leases in a database,
`backfill.CoordinatorClient` asks a `qmtl coordinator`. A lease is a token and a fence: the token renews and
ends it, the fence goes with every write, so that a writer whose lease was taken over is refused by the store.
"""

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, Protocol

import msgspec
import structlog

from qmtl.runtime.sdk.history import SeriesKey

_log = structlog.get_logger("qmtl.backfill")


class Lease(msgspec.Struct, frozen=True):
    """The right to write [start, end) of a series until `lease_until_ms`, epoch milliseconds of the database.

    Fences grow with every lease of a series, whoever keeps them. The token is a secret of its holder.
    """

    token: str
    start: int
    end: int
    fence: int
    lease_until_ms: int

    def __repr__(self) -> str:
        return f"Lease([{self.start}, {self.end}), fence={self.fence}, until={self.lease_until_ms})"


class Conflict(msgspec.Struct, frozen=True):
    """A part of the claimed range that somebody else holds, and how far they are."""

    start: int
    end: int
    owner: str
    lease_until_ms: int
    completion_ratio: float = 0.0


class Claim(msgspec.Struct, frozen=True):
    """What a claim brought: leases on every free part of the range, conflicts on the rest.

    `completion_ratio` is the share of the range that is completed, as far as leases tell. `retry_after_ms` is
    when the first conflict runs out, None without conflicts. With `is_reachable` false nobody could be asked:
    there is neither lease nor conflict; whoever asked proceeds under its own local guard, without a fence.

    A free range may have been completed a moment ago: look at the coverage once more before fetching it.
    """

    leases: list[Lease] = []
    conflicts: list[Conflict] = []
    completion_ratio: float = 0.0
    retry_after_ms: int | None = None
    is_reachable: bool = True


class HeldLease(msgspec.Struct, frozen=True):
    """A live lease as others may see it: without its token."""

    node_id: str
    interval: int
    world_id: str | None
    start: int
    end: int
    owner: str
    fence: int
    lease_until_ms: int
    completion_ratio: float


class Completion(msgspec.Struct, frozen=True):
    """A lease whose work was done."""

    node_id: str
    interval: int
    world_id: str | None
    start: int
    end: int
    owner: str
    fence: int
    completed_ms: int


class Inspection(msgspec.Struct, frozen=True):
    """Live leases in order of their series and range, and recent completions, newest first."""

    leases: list[HeldLease] = []
    completions: list[Completion] = []


class Leases(Protocol):
    """Where leases are kept. One contract suite runs against every implementation."""

    async def claim(
        self,
        key: SeriesKey,
        start: int,
        end: int,
        owner: str,
        lease_ms: int,
        *,
        world_id: str | None = None,
    ) -> Claim:
        """Lease every part of [start, end) that nobody holds to `owner` for `lease_ms`.

        ValueError for an empty or negative range. The series is node id and interval; the world only says for
        whom: worlds share one history.
        """

    async def renew(self, token: str, lease_ms: int, completion_ratio: float | None = None) -> int | None:
        """Hold on for `lease_ms` from now and return until when; None when nobody could be asked.

        UnknownLeaseError, or StaleLeaseError when it ran out: then stop writing.
        """

    async def complete(self, token: str) -> bool:
        """End a lease, its work done; false when nobody could be asked. StaleLeaseError as `renew`."""

    async def fail(self, token: str, reason: str) -> bool:
        """Free what a lease still holds; false when it held nothing any more, or nobody could be asked."""

    async def inspect(self, node_id: str | None = None, interval: int | None = None) -> Inspection:
        """Return the live leases and recent completions, of one series or of all."""

    async def aclose(self) -> None:
        """Release connections; leases stay."""


def log_lease(
    event: str,
    key: SeriesKey,
    world_id: str | None,
    worker: str,
    *,
    range: tuple[int, int],  # noqa: A002 - the published name of the field
    fence: int | None = None,
    completion_ratio: float | None = None,
    **more: Any,
) -> None:
    """Write `seamless.backfill.coordinator_<event>` with the fields that every such record carries."""
    levels = {"renewed": "debug", "failed": "warning", "expired": "warning", "unavailable": "warning"}
    getattr(_log, levels.get(event, "info"))(
        f"seamless.backfill.coordinator_{event}",
        node_id=key.node_id,
        interval=key.interval,
        world_id=world_id,
        worker=worker,
        range=range,
        fence=fence,
        completion_ratio=completion_ratio,
        **more,
    )


async def claim_whole(claiming: Coroutine[Any, Any, Claim], leases: Leases) -> Claim:
    """Await a claim; when the waiter is cancelled, free what the claim still brings."""
    task = asyncio.ensure_future(claiming)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        freeing = asyncio.ensure_future(_free(task, leases))
        _FREEING.add(freeing)
        freeing.add_done_callback(_FREEING.discard)
        raise


_FREEING: set[asyncio.Task[None]] = set()


async def _free(claiming: Awaitable[Claim], leases: Leases) -> None:
    try:
        claim = await claiming
        for lease in claim.leases:
            await leases.fail(lease.token, "claim cancelled")
    except (RuntimeError, OSError) as error:
        # Nothing of it is held for longer than its time.
        _log.info("cancelled claim not freed", reason=str(error))


def check_claim(key: SeriesKey, start: int, end: int, owner: str, lease_ms: int) -> None:
    """Raise ValueError naming what of a claim makes no sense."""
    if not 0 <= start < end:
        raise ValueError(f"range: expected 0 <= start < end, got [{start}, {end})")
    if not key.node_id or key.interval < 1:
        raise ValueError(f"key: expected a node id and an interval >= 1, got {key}")
    if not owner:
        raise ValueError("owner: expected the name of whoever claims")
    if lease_ms < 1:
        raise ValueError(f"lease_ms: expected milliseconds >= 1, got {lease_ms}")
