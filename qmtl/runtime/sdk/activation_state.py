"""What a world's activation allows: its state per side, the rules of its updates, the table of decisions."""

import math
from collections.abc import Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

import msgspec

SIDES = ("long", "short")
_TARGETS = {"buy": "long", "long": "long", "sell": "short", "short": "short"}
_HEDGE_CLOSING = {("short", "LONG"), ("long", "SHORT")}
_MODES = {
    "validate": "backtest",
    "compute-only": "backtest",
    "backtest": "backtest",
    "simulate": "dryrun",
    "paper": "dryrun",
    "dryrun": "dryrun",
    "live": "live",
    "shadow": "shadow",
}
"""Execution domain of each effective mode of a world (rebalancing §4)."""


class Move(StrEnum):
    """What an order does: opening raises or flips exposure, closing only reduces it."""

    OPENING = "opening"
    CLOSING = "closing"
    CANCEL = "cancel"


class Standing(StrEnum):
    """How a world stands towards an order; the first that holds counts."""

    UNTRUSTED = "untrusted"
    FROZEN = "frozen"
    DRAINING = "draining"
    INACTIVE = "inactive"
    ACTIVE = "active"


ALLOWED: dict[Standing, frozenset[Move]] = {
    Standing.UNTRUSTED: frozenset({Move.CANCEL}),
    Standing.FROZEN: frozenset({Move.CANCEL}),
    Standing.DRAINING: frozenset({Move.CANCEL, Move.CLOSING}),
    Standing.INACTIVE: frozenset({Move.CANCEL, Move.CLOSING}),
    Standing.ACTIVE: frozenset(Move),
}
"""Moves that pass in each standing (connectors §6)."""


class Outcome(StrEnum):
    """What became of an update."""

    APPLIED = "applied"
    RENEWED = "renewed"
    DISCARDED = "discarded"
    SUSPECT = "suspect"


class SideState(msgspec.Struct, frozen=True):
    """One side of a world; `is_suspect` after an update that made no sense, until one that does."""

    active: bool = False
    weight: float = 1.0
    freeze: bool = False
    drain: bool = False
    sequence: int | None = None
    is_suspect: bool = False


class Activation(msgspec.Struct, frozen=True):
    """Both sides of a world and its mode; changed only by being replaced."""

    long: SideState = SideState()
    short: SideState = SideState()
    effective_mode: str | None = None

    def side(self, name: str) -> SideState:
        """Return the state of `long` or `short`."""
        return self.long if name == "long" else self.short

    @property
    def is_suspect(self) -> bool:
        """Tell whether either side is."""
        return self.long.is_suspect or self.short.is_suspect

    @property
    def domain(self) -> str | None:
        """Execution domain of the mode: None without a mode, `unknown` for a word that names none."""
        return None if self.effective_mode is None else _MODES.get(self.effective_mode, "unknown")

    def stand(self, target: str) -> Standing:
        """Return the standing towards orders of one side, this state being trusted."""
        if self.long.freeze or self.short.freeze:
            return Standing.FROZEN
        if self.long.drain or self.short.drain:
            return Standing.DRAINING
        return Standing.ACTIVE if self.side(target).active else Standing.INACTIVE

    def update(self, payload: Mapping[str, Any], *, is_http: bool) -> "tuple[Activation, Outcome]":
        """Return the state after an update, and what became of it.

        Without `side` it holds for both; fields it does not name stay. A sequence that is not greater is
        discarded; from HTTP an equal one renews and a lower one is suspect, as is a field of a wrong kind.
        """
        named = payload.get("side")
        names = SIDES if named is None or named == "" else (_TARGETS.get(str(named).lower(), ""),)
        problem = _find_problem(payload) or ("side" if names == ("",) else "")
        outcomes: set[Outcome] = set()
        state = self
        for name in SIDES if problem else names:
            side, outcome = self.side(name), Outcome.SUSPECT
            if not problem:
                outcome = _judge(side.sequence, payload.get("sequence"), is_http=is_http)
            outcomes.add(outcome)
            state = msgspec.structs.replace(state, **{name: _change(side, payload, outcome)})
        outcome = next(o for o in (Outcome.SUSPECT, *Outcome) if o in outcomes)
        is_good = outcome in {Outcome.APPLIED, Outcome.RENEWED}
        if is_good and payload.get("effective_mode") is not None:
            state = msgspec.structs.replace(state, effective_mode=payload["effective_mode"])
        return state, outcome


def find_target(side: object) -> str:
    """Return the side of a world that an order's side concerns: buy is long, sell short, else ValueError."""
    target = _TARGETS.get(side.strip().lower()) if isinstance(side, str) else None
    if target is None:
        raise ValueError(f"side: expected buy, sell, long or short, got {side!r}")
    return target


def find_move(order: Mapping[str, Any], position: object = None, *, is_spot: bool = False) -> Move:
    """Return what an order does to `position`, signed base units (None: not known).

    Closing are reduce-only orders, hedge closing pairs, a quantity within the opposite position, and any
    sale of a spot transport; a cancel has `action` or `type` cancel. ValueError when it cannot be told.
    """
    if "cancel" in {str(order.get("action")).lower(), str(order.get("type")).lower()}:
        return Move.CANCEL
    target = find_target(order.get("side"))
    position_side = str(order.get("position_side") or order.get("positionSide") or "BOTH").upper()
    is_reducing = order.get("reduce_only", order.get("reduceOnly")) is True
    if is_reducing or (target, position_side) in _HEDGE_CLOSING or (is_spot and target == "short"):
        return Move.CLOSING
    quantity = order.get("quantity", order.get("amount"))
    if position is None or quantity is None or position_side != "BOTH":
        return Move.OPENING
    held = Decimal(str(position))
    opposite = held if target == "short" else -held
    return Move.CLOSING if 0 < abs(Decimal(str(quantity))) <= opposite else Move.OPENING


def _find_problem(payload: Mapping[str, Any]) -> str:
    """Return the first field of a wrong kind, nothing when all are right."""
    for name in ("active", "freeze", "drain"):
        if name in payload and not isinstance(payload[name], bool):
            return name
    for name, kinds in (("weight", (int, float)), ("sequence", (int,)), ("effective_mode", (str,))):
        value = payload.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
            return name
    weight = payload.get("weight")
    return "" if weight is None or math.isfinite(weight) else "weight"


def _judge(known: int | None, sequence: int | None, *, is_http: bool) -> Outcome:
    if known is None:
        return Outcome.APPLIED
    if sequence is None:
        # It may be older or newer than what is known: neither may be assumed.
        return Outcome.SUSPECT
    if sequence > known:
        return Outcome.APPLIED
    if not is_http:
        return Outcome.DISCARDED
    return Outcome.RENEWED if sequence == known else Outcome.SUSPECT


def _change(side: SideState, payload: Mapping[str, Any], outcome: Outcome) -> SideState:
    if outcome is Outcome.DISCARDED:
        return side
    if outcome is not Outcome.APPLIED:
        return msgspec.structs.replace(side, is_suspect=outcome is Outcome.SUSPECT)
    weight = payload.get("weight")
    return SideState(
        active=payload.get("active", side.active),
        weight=side.weight if weight is None else min(1.0, max(0.0, float(weight))),
        freeze=payload.get("freeze", side.freeze),
        drain=payload.get("drain", side.drain),
        sequence=side.sequence if payload.get("sequence") is None else payload["sequence"],
    )
