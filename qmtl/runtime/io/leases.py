"""LeaseStore: the one lease mechanism, in a SQLite file or in PostgreSQL.

Backfills claim ranges of a series; relays and account owners claim [0, 1) of a key of their own. Whatever
concerns one series happens in the order of its row of fences, under the database's own time; the clocks of
the claimants do not matter.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from qmtl.core.ranges import Range, clip_ranges, measure_ranges, merge_ranges, subtract_ranges
from qmtl.engine.clock import SystemRandom
from qmtl.engine.ports import Random
from qmtl.runtime.io.lease_database import Script, open_database
from qmtl.runtime.sdk.history import SeriesKey, StaleLeaseError, UnknownLeaseError
from qmtl.runtime.sdk.lease import (
    Claim,
    Completion,
    Conflict,
    HeldLease,
    Inspection,
    Lease,
    check_claim,
    claim_whole,
)

KEEP_MS = 3_600_000
"""So long ended leases are remembered: a late holder is told that it lost, not that it never was."""
_TOKEN_BYTES = 16

_ADD_SERIES = """
    INSERT INTO qmtl_lease_fences (node_id, interval_s, fence) VALUES (?, ?, 0) ON CONFLICT DO NOTHING"""
_LOCK_SERIES = "SELECT fence FROM qmtl_lease_fences WHERE node_id = ? AND interval_s = ? {lock}"
_SET_FENCE = "UPDATE qmtl_lease_fences SET fence = ? WHERE node_id = ? AND interval_s = ?"
_EXPIRE = """
    UPDATE qmtl_leases SET state = 'expired'
    WHERE node_id = ? AND interval_s = ? AND state = 'live' AND lease_until_ms <= ?"""
_FORGET = """
    DELETE FROM qmtl_leases
    WHERE node_id = ? AND interval_s = ? AND state <> 'live' AND lease_until_ms < ?"""
_FIND_OVERLAPPING = """
    SELECT start_s, end_s, owner, lease_until_ms, completion_ratio, state FROM qmtl_leases
    WHERE node_id = ? AND interval_s = ? AND state IN ('live', 'completed') AND start_s < ? AND end_s > ?
    ORDER BY start_s"""
_ADD_LEASE = """
    INSERT INTO qmtl_leases (token, node_id, interval_s, start_s, end_s, fence, owner, world_id,
        lease_until_ms, state, completion_ratio) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 'live', 0)"""
_FIND_SERIES = "SELECT node_id, interval_s FROM qmtl_leases WHERE token = ?"
_FIND_LEASE = "SELECT state, lease_until_ms FROM qmtl_leases WHERE token = ?"
_RENEW = """
    UPDATE qmtl_leases SET lease_until_ms = ?, completion_ratio = COALESCE(?, completion_ratio)
    WHERE token = ?"""
_COMPLETE = """
    UPDATE qmtl_leases SET state = 'completed', completion_ratio = 1, lease_until_ms = ?
    WHERE token = ?"""
_FAIL = "UPDATE qmtl_leases SET state = 'failed', lease_until_ms = ?, reason = ? WHERE token = ?"
_LIST_LIVE = """
    SELECT node_id, interval_s, world_id, start_s, end_s, owner, fence, lease_until_ms, completion_ratio
    FROM qmtl_leases WHERE state = 'live' AND lease_until_ms > ?
    AND (CAST(? AS TEXT) IS NULL OR node_id = ?) AND (CAST(? AS BIGINT) IS NULL OR interval_s = ?)
    ORDER BY node_id, interval_s, start_s"""
_LIST_COMPLETED = """
    SELECT node_id, interval_s, world_id, start_s, end_s, owner, fence, lease_until_ms
    FROM qmtl_leases WHERE state = 'completed'
    AND (CAST(? AS TEXT) IS NULL OR node_id = ?) AND (CAST(? AS BIGINT) IS NULL OR interval_s = ?)
    ORDER BY lease_until_ms DESC LIMIT 100"""


class LeaseStore:
    """Leases in the database of `dsn`: `sqlite:///…`, `postgresql://…`, or the path of an SQLite file.

    The file may hold other tables, such as the catalogue of an embedded store. ValueError for another DSN;
    every method raises StoreError when the database cannot do its part.
    """

    def __init__(self, dsn: str | Path, *, rng: Random | None = None) -> None:
        self._database = open_database(dsn)
        self._random: Random = rng or SystemRandom()

    @property
    def backend(self) -> str:
        """`sqlite` or `postgresql`."""
        return self._database.backend

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
        """See lease.Leases."""
        check_claim(key, start, end, owner, lease_ms)
        request = _Request(SeriesKey(*key), (start, end), owner, lease_ms, world_id)
        return await claim_whole(self._database.run(partial(_claim, request, self._mint)), self)

    def _mint(self) -> str:
        return self._random.randbytes(_TOKEN_BYTES).hex()

    async def renew(self, token: str, lease_ms: int, completion_ratio: float | None = None) -> int:
        """See lease.Leases."""
        if lease_ms < 1:
            raise ValueError(f"lease_ms: expected milliseconds >= 1, got {lease_ms}")
        return await self._database.run(partial(_renew, token, lease_ms, completion_ratio))

    async def complete(self, token: str) -> bool:
        """See lease.Leases; repeating it is no error."""
        return await self._database.run(partial(_complete, token))

    async def fail(self, token: str, reason: str) -> bool:
        """See lease.Leases; UnknownLeaseError for a token that never was."""
        return await self._database.run(partial(_fail, token, reason))

    async def inspect(self, node_id: str | None = None, interval: int | None = None) -> Inspection:
        """See lease.Leases."""
        return await self._database.run(partial(_inspect, node_id, interval), is_write=False)

    async def now_ms(self) -> int:
        """Return the database's time in epoch milliseconds."""
        return await self._database.run(_now, is_write=False)

    async def aclose(self) -> None:
        """See lease.Leases."""
        await self._database.aclose()


class _Request:
    def __init__(self, key: SeriesKey, asked: Range, owner: str, lease_ms: int, world_id: str | None) -> None:
        self.key = key
        self.asked = asked
        self.owner = owner
        self.lease_ms = lease_ms
        self.world_id = world_id


def _now() -> Script[int]:
    [(now,)] = yield "SELECT {now}", ()
    return int(now)


def _lock(key: SeriesKey) -> Script[tuple[int, int]]:
    """Make the series ours until the commit; return its last fence and the time, read in this order."""
    [(fence,)] = yield _LOCK_SERIES, (*key,)
    now = yield from _now()
    return int(fence), now


def _claim(request: _Request, mint: Callable[[], str]) -> Script[Claim]:
    key, (start, end) = request.key, request.asked
    yield _ADD_SERIES, (*key,)
    fence, now = yield from _lock(key)
    yield _EXPIRE, (*key, now)
    yield _FORGET, (*key, now - KEEP_MS)
    rows = yield _FIND_OVERLAPPING, (*key, end, start)
    conflicts = [Conflict(max(r[0], start), min(r[1], end), r[2], r[3], r[4]) for r in rows if r[5] == "live"]
    until = now + request.lease_ms
    leases = []
    for free_start, free_end in subtract_ranges([(start, end)], _held(conflicts)):
        # Never below the time: a store that has seen fences of one lease database can follow a move to
        # another one, or the loss of the first.
        fence = max(fence + 1, now)
        leases.append(Lease(mint(), free_start, free_end, fence, until))
    for lease in leases:
        row = (lease.token, *key, lease.start, lease.end, lease.fence)
        yield _ADD_LEASE, (*row, request.owner, request.world_id, until)
    if leases:
        yield _SET_FENCE, (fence, *key)
    completed = [(r[0], r[1]) for r in rows if r[5] == "completed"]
    return Claim(
        leases,
        conflicts,
        _measure_completion(request.asked, conflicts, completed),
        min((conflict.lease_until_ms - now for conflict in conflicts), default=None),
    )


def _held(conflicts: list[Conflict]) -> list[Range]:
    return merge_ranges((conflict.start, conflict.end) for conflict in conflicts)


def _measure_completion(asked: Range, conflicts: list[Conflict], completed: list[Range]) -> float:
    """Return the share of `asked` that is done: what was completed; of what is held, its holder's share."""
    done = subtract_ranges(clip_ranges(merge_ranges(completed), *asked), _held(conflicts))
    running = sum((conflict.end - conflict.start) * conflict.completion_ratio for conflict in conflicts)
    return (measure_ranges(done) + running) / (asked[1] - asked[0])


def _find(token: str) -> Script[tuple[str, int, int]]:
    """Lock the series of a lease; return its state, its end and the time."""
    rows = yield _FIND_SERIES, (token,)
    if rows:
        _, now = yield from _lock(SeriesKey(*rows[0]))
        rows = yield _FIND_LEASE, (token,)
    if not rows:
        raise UnknownLeaseError("no lease has this token")
    [(state, until)] = rows
    if state == "live" and until <= now:
        state = "expired"
    return state, until, now


def _renew(token: str, lease_ms: int, ratio: float | None) -> Script[int]:
    state, until, now = yield from _find(token)
    _require_live(state, until, now)
    yield _RENEW, (now + lease_ms, ratio, token)
    return now + lease_ms


def _complete(token: str) -> Script[bool]:
    state, until, now = yield from _find(token)
    if state != "completed":
        _require_live(state, until, now)
        yield _COMPLETE, (now, token)
    return True


def _fail(token: str, reason: str) -> Script[bool]:
    state, _, now = yield from _find(token)
    if state == "live":
        yield _FAIL, (now, reason, token)
    return state == "live"


def _require_live(state: str, until: int, now: int) -> None:
    if state == "expired":
        raise StaleLeaseError(f"the lease ran out {now - until} ms ago")
    if state != "live":
        raise StaleLeaseError(f"the lease was {'given up' if state == 'failed' else 'completed'}")


def _inspect(node_id: str | None, interval: int | None) -> Script[Inspection]:
    now = yield from _now()
    series = (node_id, node_id, interval, interval)
    live = yield _LIST_LIVE, (now, *series)
    completed = yield _LIST_COMPLETED, series
    return Inspection([HeldLease(*row) for row in live], [Completion(*row) for row in completed])
