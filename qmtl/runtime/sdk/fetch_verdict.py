"""What an answer is worth: downgraded, held or refused, as policy, domain and strategy say."""

from collections.abc import Sequence

import structlog

from qmtl.runtime.sdk.domain_gate import describe_breach, find_breach, is_present
from qmtl.runtime.sdk.fetch_result import FetchMetadata
from qmtl.runtime.sdk.history import SeamlessSLAExceeded
from qmtl.runtime.sdk.phase_budget import PhaseExceededError
from qmtl.runtime.sdk.sla import SLAPolicy, SLAViolationMode

PENDING = "backfill_pending"
"""Why a PARTIAL_FILL answer with holes is downgraded; every other reason replaces it."""
_log = structlog.get_logger("qmtl.seamless")


class Verdict:
    """Writes the judgement into `metadata`, or raises SeamlessSLAExceeded."""

    def __init__(self, policy: SLAPolicy, metadata: FetchMetadata) -> None:
        self._policy = policy
        self._told = metadata

    def violate(self, error: PhaseExceededError) -> None:
        """Raise, downgrade or hold, as the policy says."""
        policy, told = self._policy, self._told
        text = f"{error}; use AUTO_BACKFILL or a shorter range"
        if policy.on_violation is SLAViolationMode.FAIL_FAST:
            raise SeamlessSLAExceeded(
                error.phase, node_id=told.node_id, elapsed_ms=error.elapsed_ms, budget_ms=error.budget_ms
            )
        told.sla_violation = {
            "phase": error.phase,
            "elapsed_ms": error.elapsed_ms,
            "budget_ms": error.budget_ms,
        }
        _log.warning("seamless.sla.downgrade", message=text, node_id=told.node_id, interval=told.interval)
        self.downgrade(policy.on_violation.value, "sla_violation")

    def downgrade(self, mode: str, reason: str) -> None:
        """Mark the answer; the first reason stays."""
        told = self._told
        if told.downgrade_reason in {None, PENDING}:
            told.downgraded, told.downgrade_mode, told.downgrade_reason = True, mode, reason
        told.hold |= mode == SLAViolationMode.HOLD.value

    def judge(
        self,
        domain: str | None,
        closed_ms: int,
        *,
        min_coverage: float | None,
        max_lag_seconds: float | None,
    ) -> None:
        """Hold, downgrade or refuse an answer that is too thin or too old; None asks what the policy asks."""
        told, policy = self._told, self._policy
        limits = {
            "min_coverage": policy.min_coverage if min_coverage is None else min_coverage,
            "max_lag_seconds": policy.max_lag_seconds if max_lag_seconds is None else max_lag_seconds,
        }
        breach = find_breach(told.coverage_ratio, told.staleness_ms, **limits)
        if breach is None:
            return
        if is_present(domain):
            self.downgrade(SLAViolationMode.HOLD.value, breach)
        elif policy.on_violation is SLAViolationMode.FAIL_FAST:
            phase, found, allowed = describe_breach(
                breach, told.coverage_ratio, told.staleness_ms, closed_ms, limits
            )
            raise SeamlessSLAExceeded(phase, node_id=told.node_id, elapsed_ms=found, budget_ms=allowed)
        else:
            self.downgrade(policy.on_violation.value, breach)


def say_missing(node_id: str, missing: Sequence[tuple[int, int, str]]) -> str:
    """Return one line that names the first missing range and how many there are."""
    start, end, reason = missing[0]
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return f"{node_id}: [{start}, {end}) is missing ({reason}){more}"
