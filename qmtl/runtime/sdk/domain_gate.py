"""What an execution domain demands of history: artifacts, freshness, and no way back in time."""

from collections.abc import Mapping

from qmtl.runtime.sdk.history import SeamlessDomainPolicyError

DOMAINS = ("backtest", "live", "shadow", "dryrun")
_PRESENT = frozenset({"live", "shadow", "dryrun"})


def parse_domain(domain: str | None) -> str | None:
    """Return a domain by its name; `paper` is dryrun; ValueError lists the known."""
    if domain is None:
        return None
    name = "dryrun" if domain.lower() == "paper" else domain.lower()
    if name not in DOMAINS:
        raise ValueError(f"execution_domain {domain!r} is not known; known: {', '.join(DOMAINS)}")
    return name


def is_present(domain: str | None) -> bool:
    """Tell whether a domain acts in the present, so that bad data must hold it."""
    return domain in _PRESENT


class DomainGate:
    """Remembers how far each world has come with each series."""

    def __init__(self) -> None:
        self._newest: dict[tuple[str | None, str], int] = {}

    def admit(self, node_id: str, world_id: str | None, domain: str | None, as_of: int | None) -> str | None:
        """Return why an answer must be held (`as_of_regression`), None when it need not.

        SeamlessDomainPolicyError for a backtest of a world that names no `as_of`.
        """
        if as_of is None:
            if domain == "backtest" and world_id is not None:
                raise SeamlessDomainPolicyError(
                    f"{node_id}: a backtest of world {world_id} needs as_of, so that it can be repeated"
                )
            return None
        if not is_present(domain):
            return None
        newest = self._newest.get((world_id, node_id))
        if newest is not None and as_of < newest:
            return "as_of_regression"
        self._newest[world_id, node_id] = as_of
        return None


def find_breach(
    coverage_ratio: float,
    staleness_ms: int,
    *,
    min_coverage: float | None,
    max_lag_seconds: float | None,
) -> str | None:
    """Return `coverage_breach` or `freshness_breach`, None when the answer is as it must be."""
    if min_coverage is not None and coverage_ratio < min_coverage:
        return "coverage_breach"
    if max_lag_seconds is not None and staleness_ms > max_lag_seconds * 1000:
        return "freshness_breach"
    return None


def describe_breach(
    breach: str, ratio: float, staleness_ms: int, closed_ms: int, limits: Mapping[str, float | None]
) -> tuple[str, float, float]:
    """Return phase, milliseconds found and milliseconds allowed of a breach: missing time, or lag."""
    if breach == "coverage_breach":
        least = limits["min_coverage"] or 0.0
        return "coverage", (1 - ratio) * closed_ms, (1 - least) * closed_ms
    return "freshness", float(staleness_ms), (limits["max_lag_seconds"] or 0.0) * 1000
