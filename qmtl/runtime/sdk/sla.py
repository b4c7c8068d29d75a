"""How long a fetch may take, how complete and fresh it must be, and what happens when it is not."""

import difflib
import math
from dataclasses import dataclass, fields
from enum import StrEnum


class SLAViolationMode(StrEnum):
    """What a violated policy leads to: an error, the rows there are, or rows that no node may see."""

    FAIL_FAST = "fail_fast"
    PARTIAL_FILL = "partial_fill"
    HOLD = "hold"

    @classmethod
    def parse(cls, value: "str | SLAViolationMode") -> "SLAViolationMode":
        """Return the mode of a name in any case, with `-` or `_`; ValueError lists the known."""
        try:
            return cls(str(value).strip().lower().replace("-", "_"))
        except ValueError:
            known = ", ".join(mode.value for mode in cls)
            raise ValueError(f"on_violation {value!r} is not known; known: {known}") from None


@dataclass(frozen=True)
class SLAPolicy:
    """Budgets of one fetch in milliseconds, and the coverage and lag its answer must keep.

    None does not limit. `min_coverage` is a share of closed cells, `max_sync_gap_bars` what a fetch fills
    before it answers. `on_violation` may be given as text. ValueError names a bad field.
    """

    max_wait_storage_ms: float | None = None
    max_wait_backfill_ms: float | None = None
    max_wait_live_ms: float | None = None
    retry_backoff_ms: float | None = None
    total_deadline_ms: float | None = None
    max_sync_gap_bars: int | None = None
    on_violation: SLAViolationMode = SLAViolationMode.FAIL_FAST
    min_coverage: float | None = None
    max_lag_seconds: float | None = None

    def __post_init__(self) -> None:
        """Check every field and turn the mode into its enumeration."""
        object.__setattr__(self, "on_violation", SLAViolationMode.parse(self.on_violation))
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "on_violation" or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{field.name}: expected a number, got {value!r}")
            if value < 0 or (field.name == "min_coverage" and value > 1):
                limit = "0 to 1" if field.name == "min_coverage" else ">= 0"
                raise ValueError(f"{field.name}: expected {limit}, got {value!r}")


_BASELINE = SLAPolicy(
    max_wait_storage_ms=3_000,
    max_wait_backfill_ms=45_000,
    max_wait_live_ms=5_000,
    retry_backoff_ms=500,
    total_deadline_ms=60_000,
    on_violation=SLAViolationMode.PARTIAL_FILL,
    min_coverage=0.98,
    max_lag_seconds=45,
)
_STRICT = SLAPolicy(
    max_wait_storage_ms=3_000,
    max_wait_backfill_ms=45_000,
    max_wait_live_ms=5_000,
    retry_backoff_ms=500,
    total_deadline_ms=60_000,
    on_violation=SLAViolationMode.FAIL_FAST,
    min_coverage=0.98,
    max_lag_seconds=45,
)
_TOLERANT = SLAPolicy(
    max_wait_storage_ms=5_000,
    max_wait_backfill_ms=75_000,
    max_wait_live_ms=7_000,
    retry_backoff_ms=1_000,
    total_deadline_ms=90_000,
    on_violation=SLAViolationMode.PARTIAL_FILL,
    min_coverage=0.9,
    max_lag_seconds=90,
)
SLA_PRESETS: dict[str, SLAPolicy] = {
    "baseline": _BASELINE,
    "strict": _STRICT,
    "tolerant-partial": _TOLERANT,
}
"""The policies that have a name; `baseline` is the default."""


def unknown_preset(kind: str, name: object, known: "list[str]") -> str:
    """Return the message for a preset that does not exist, with the nearest one that does."""
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{kind} {name!r} is not known; known: {', '.join(known)}{hint}"
