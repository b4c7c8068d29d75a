"""The client of a `qmtl coordinator`: leases shared by workers on many machines; `lease` has the words."""

from typing import Any, TypeVar

import msgspec

from qmtl.core.ranges import Range
from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.sdk.bearer import BearerToken, Token, TokenUnavailable
from qmtl.runtime.sdk.history import (
    CoordinatorRefusedError,
    SeriesKey,
    StaleLeaseError,
    UnknownLeaseError,
)
from qmtl.runtime.sdk.lease import Claim, Inspection, Lease, check_claim, claim_whole, log_lease

__all__ = ["CoordinatorClient", "Lease"]

T = TypeVar("T")
_PAUSE_MS = 5_000.0
"""So long an unreachable coordinator is not asked for new leases."""

_DISPUTES = 1_000


class _Held(msgspec.Struct, frozen=True):
    key: SeriesKey
    world_id: str | None
    worker: str
    lease: Lease


class CoordinatorClient:
    """Leases of a `qmtl coordinator` at `url`; the same methods as LeaseStore.

    `token` is text, `file:PATH` (read at every request: a replaced file is taken up at once) or a function.
    Unreachable is an answer and no error: see `Claim.is_reachable`, and None or false of the other methods;
    the gauge `seamless_coordinator_up` says it too. A refused token raises CoordinatorRefusedError when a
    range is claimed; a renewal under one counts as not delivered: a replaced token can save the lease.
    """

    def __init__(
        self, url: str, *, token: Token | None = None, timeout_s: float = 5.0, clock: Clock | None = None
    ) -> None:
        head, separator, rest = url.partition("://")
        if head not in {"http", "https"} or not separator or not rest.strip("/"):
            raise ValueError("coordinator: expected an http:// or https:// URL")
        self.url = url.rstrip("/")
        self._token = BearerToken(token)
        self._timeout_s = timeout_s
        self._clock: Clock = clock or SystemClock()
        self._held: dict[str, _Held] = {}
        self._disputed: dict[tuple[SeriesKey, Range], list[str]] = {}
        self._ask_again_ms = float("-inf")

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
        """See Leases."""
        check_claim(key, start, end, owner, lease_ms)
        return await claim_whole(self._claim(key, start, end, owner, lease_ms, world_id), self)

    async def _claim(
        self, key: SeriesKey, start: int, end: int, owner: str, lease_ms: int, world_id: str | None
    ) -> Claim:
        if self._clock.real_ms() < self._ask_again_ms:
            return Claim(is_reachable=False)
        name = {"node_id": key.node_id, "interval": key.interval}
        if world_id is not None:
            name["world_id"] = world_id
        body = {"key": name, "start": start, "end": end, "owner": owner, "lease_ms": lease_ms}
        status, answer = await self._ask("POST", "claim", body)
        if status in {200, 409}:
            claim = _complete_claim(self._decode(answer, Claim), (start, end), lease_ms)
            return self._take(claim, key, world_id, owner, (start, end))
        if status:
            raise CoordinatorRefusedError(f"coordinator {self.url}: {_say(status, answer)}")
        self._ask_again_ms = self._clock.real_ms() + _PAUSE_MS
        log_lease("unavailable", key, world_id, owner, range=(start, end), reason=answer.decode())
        return Claim(is_reachable=False)

    def _take(self, claim: Claim, key: SeriesKey, world_id: str | None, owner: str, asked: Range) -> Claim:
        ratio = claim.completion_ratio
        for lease in claim.leases:
            self._held[lease.token] = _Held(key, world_id, owner, lease)
            log_lease(
                "claimed",
                key,
                world_id,
                owner,
                range=(lease.start, lease.end),
                fence=lease.fence,
                completion_ratio=ratio,
            )
        holders = sorted({conflict.owner for conflict in claim.conflicts})
        # Whoever waits for others claims again and again; it is told once who they are.
        if holders and self._disputed.get((key, asked)) != holders:
            log_lease("conflict", key, world_id, owner, range=asked, completion_ratio=ratio, holders=holders)
            self._disputed[key, asked] = holders
            if len(self._disputed) > _DISPUTES:
                self._disputed.pop(next(iter(self._disputed)))
        if not holders:
            self._disputed.pop((key, asked), None)
        return claim

    async def renew(self, token: str, lease_ms: int, completion_ratio: float | None = None) -> int | None:
        """See Leases."""
        body: dict[str, Any] = {"token": token, "lease_ms": lease_ms}
        if completion_ratio is not None:
            body["completion_ratio"] = completion_ratio
        answer = await self._end("renew", token, body, "renewed", completion_ratio)
        return None if answer is None else int(answer["lease_until_ms"])

    async def complete(self, token: str) -> bool:
        """See Leases."""
        answer = await self._end("complete", token, {"token": token}, "completed", 1.0)
        if answer is not None:
            self._held.pop(token, None)
        return answer is not None

    async def fail(self, token: str, reason: str) -> bool:
        """See Leases."""
        body = {"token": token, "reason": reason[:500]}
        answer = await self._end("fail", token, body, "failed", None, reason=reason[:500])
        if answer is not None:
            self._held.pop(token, None)
        return bool(answer and answer.get("freed"))

    async def _end(
        self, verb: str, token: str, body: dict[str, Any], event: str, ratio: float | None, **more: Any
    ) -> dict[str, Any] | None:
        """Send one word about a lease and log what came of it; None when it could not be delivered."""
        status, answer = await self._ask("POST", verb, body)
        if status == 200:
            self._log(event, token, ratio, **more)
            return self._decode(answer, dict[str, Any])
        if status in {404, 409}:
            self._log("expired", token, ratio)
            self._held.pop(token, None)
            kind = UnknownLeaseError if status == 404 else StaleLeaseError
            raise kind(f"coordinator {self.url}: {_say(status, answer)}")
        self._log("unavailable", token, ratio, reason=_say(status, answer))
        return None

    def _log(self, event: str, token: str, ratio: float | None, **more: Any) -> None:
        held = self._held.get(token)
        if held is None:
            return
        lease = held.lease
        log_lease(
            event,
            held.key,
            held.world_id,
            held.worker,
            range=(lease.start, lease.end),
            fence=lease.fence,
            completion_ratio=ratio,
            **more,
        )

    async def inspect(self, node_id: str | None = None, interval: int | None = None) -> Inspection:
        """See Leases; CoordinatorRefusedError also when it cannot be reached."""
        asked = {"node_id": node_id, "interval": interval}
        query = {name: str(value) for name, value in asked.items() if value is not None}
        status, answer = await self._ask("GET", "inspect", query)
        if status != 200:
            raise CoordinatorRefusedError(f"coordinator {self.url}: {_say(status, answer)}")
        return self._decode(answer, Inspection)

    def _decode(self, answer: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise CoordinatorRefusedError(f"{self.url} answers as no coordinator does: {error}") from None

    async def _ask(self, method: str, verb: str, body: dict[str, Any]) -> tuple[int, bytes]:
        """Return status and body of one request; 0 and the reason when there was no answer to go by."""
        import aiohttp

        url = f"{self.url}/v1/leases/{verb}"
        content: dict[str, Any] = {"params" if method == "GET" else "json": body}
        try:
            headers = await self._token.headers()
            timeout = aiohttp.ClientTimeout(total=self._timeout_s)
            # A session each: requests are few, and the next may come from another event loop.
            async with (
                aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as session,
                session.request(method, url, headers=headers, allow_redirects=False, **content) as response,
            ):
                status, answer = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, TokenUnavailable) as error:
            SEAMLESS.coordinator_up.set(0)
            return 0, (str(error) or type(error).__name__).encode()
        if status >= 500 or status == 429:
            SEAMLESS.coordinator_up.set(0)
            return 0, _say(status, answer).encode()
        SEAMLESS.coordinator_up.set(1)
        self._ask_again_ms = float("-inf")
        return status, answer

    async def aclose(self) -> None:
        """See Leases; nothing is kept open."""


def _complete_claim(claim: Claim, asked: Range, lease_ms: int) -> Claim:
    """Add what LeaseStore says and the coordinator's answer leaves to be reckoned."""
    if not claim.leases:
        done = sum((part.end - part.start) * part.completion_ratio for part in claim.conflicts)
        return msgspec.structs.replace(claim, completion_ratio=done / (asked[1] - asked[0]))
    if claim.conflicts:
        now_ms = claim.leases[0].lease_until_ms - lease_ms
        first_ms = min(part.lease_until_ms for part in claim.conflicts)
        return msgspec.structs.replace(claim, retry_after_ms=max(0, first_ms - now_ms))
    return claim


def _say(status: int, answer: bytes) -> str:
    """Return what a refusal says for people."""
    if not status:
        return answer.decode()
    try:
        detail: Any = msgspec.json.decode(answer)["detail"]
        text = detail["message"] if isinstance(detail, dict) else str(detail)
    except (msgspec.DecodeError, KeyError, TypeError):
        text = answer[:200].decode("utf-8", "replace")
    return f"HTTP {status}: {text}"
