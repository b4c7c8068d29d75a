"""How much of a range must be there, and what may be done to bring it: a provider's options."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class DataAvailabilityStrategy(StrEnum):
    """What a provider does about rows that are neither cached nor stored.

    FAIL_FAST asks the live feed and raises when something is missing; AUTO_BACKFILL fills every gap however
    long that takes; PARTIAL_FILL returns what is there and fills in the background; SEAMLESS fills within
    the budgets of its SLA policy.
    """

    FAIL_FAST = "fail_fast"
    AUTO_BACKFILL = "auto_backfill"
    PARTIAL_FILL = "partial_fill"
    SEAMLESS = "seamless"


def parse_strategy(value: object) -> DataAvailabilityStrategy:
    """Return the strategy of that name in any case; ValueError lists the known."""
    try:
        return DataAvailabilityStrategy(str(value).lower())
    except ValueError:
        known = ", ".join(one.name for one in DataAvailabilityStrategy)
        raise ValueError(f"strategy {value!r} is not known; known: {known}") from None


@dataclass(frozen=True, kw_only=True)
class BackfillConfig:
    """How gaps are filled: windows of `window_bars` (None: ten requests' worth), so many at a time.

    `sync` ends a backfill with the last fetch that waits for it, `background` lets it go on. A worker that
    died keeps others from its range for at most `lease_ttl_ms`.
    """

    mode: Literal["background", "sync"] = "background"
    window_bars: int | None = None
    max_concurrent_requests: int = 8
    lease_ttl_ms: int = 120_000

    def __post_init__(self) -> None:
        if self.mode not in {"background", "sync"}:
            raise ValueError(f'mode: expected "background" or "sync", got {self.mode!r}')
        for name in ("window_bars", "max_concurrent_requests", "lease_ttl_ms"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """Rows kept in memory: for how long, and how many bytes of them."""

    enable: bool = True
    ttl_ms: int = 60_000
    max_bytes: int = 2**28

    def __post_init__(self) -> None:
        for name in ("ttl_ms", "max_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
