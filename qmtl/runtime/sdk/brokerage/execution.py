"""In which domain orders are given now, and how far they may reach in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from qmtl.engine.ports import Reach
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.result import DomainViolation

ALIASES = {"paper": "dryrun", "simulate": "dryrun"}
REACHES: dict[str, frozenset[Reach]] = {
    "backtest": frozenset({"memory"}),
    "dryrun": frozenset({"memory", "sandbox"}),
    "shadow": frozenset(),
    "live": frozenset({"memory", "sandbox", "live"}),
}
"""How far orders may go in each domain."""


class ExecutionContext(msgspec.Struct, frozen=True):
    """Domain of a run (None: not said) and whether it replays; any replay reaches memory only.

    `mark` is the latest close an order without a price of its own is measured at.
    """

    domain: str | None = None
    is_replay: bool = False
    mark: float | None = None


_default: list[ExecutionContext] = [ExecutionContext()]
_current: ContextVar[ExecutionContext | None] = ContextVar("qmtl_execution", default=None)


def parse_domain(value: object) -> str | None:
    """Return the domain `value` names (`paper` is dryrun), None for None; else DomainViolation."""
    if value is None:
        return None
    name = ALIASES.get(str(value).strip().lower(), str(value).strip().lower())
    if name not in REACHES:
        raise DomainViolation(f"execution_domain: expected one of {', '.join(REACHES)}, got {value!r}")
    return name


def set_default_context(context: ExecutionContext) -> None:
    """Let `context` hold wherever no running context does."""
    _default[0] = context


def current_context() -> ExecutionContext:
    """Return the running context of this task or thread, else the default one."""
    return _current.get() or _default[0]


@contextmanager
def running(context: ExecutionContext) -> Iterator[None]:
    """Let `context` hold inside the block."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


def is_allowed(domain: str, reach: Reach, *, is_replay: bool = False) -> bool:
    """Tell whether an order of `domain` may go as far as `reach`."""
    return reach in REACHES["backtest" if is_replay else domain]


def check_reach(order: Mapping[str, Any], reach: Reach) -> None:
    """Raise DomainViolation unless the order's domain, the running context's, else the configured one allow.

    With none of them set a direct call passes.
    """
    context = current_context()
    domains = [d for d in (parse_domain(order.get("execution_domain")), context.domain) if d is not None]
    if not domains and (configured := runtime.settings().connectors.execution_domain) is not None:
        domains = [configured]
    if context.is_replay:
        domains.append("backtest")
    for domain in domains:
        if not is_allowed(domain, reach):
            what = "replay" if context.is_replay and domain == "backtest" else f"domain {domain}"
            raise DomainViolation(f"{what} cannot reach a {reach} venue")
