"""The fault port: a seeded plan of what goes wrong, by route and chance or by explicit schedule."""

from collections import Counter
from enum import StrEnum
from fnmatch import fnmatchcase

import msgspec

from qmtl.engine.ports import Random
from qmtl.services.paper_exchange.errors import VenueError


class FaultKind(StrEnum):
    """What can go wrong. Down to `empty` it befalls REST requests, `skew` the clock, the rest streams."""

    DROP = "drop"
    """The request is carried out and the connection closed without an answer."""
    REFUSE = "refuse"
    """The connection is closed before the request is looked at."""
    STATUS = "status"
    """Answered with `status` (429, 418, 400, 401 or 5xx) instead of being carried out.

    429 and 418 ask to retry after `seconds`; below 0 they do not say.
    """
    DELAY = "delay"
    """`seconds` pass before the answer, or before the message, leaves."""
    LOST_ANSWER = "lost_answer"
    """Carried out, but answered with `status`: execution unknown."""
    EMPTY = "empty"
    """Answered with an empty list, as for a window in which nothing happened."""
    SKEW = "skew"
    """The exchange's clock is wrong by `seconds` (exchange time) for whoever asks it."""
    DUPLICATE = "duplicate"
    """A stream message comes twice."""
    REORDER = "reorder"
    """A stream message changes places with the next one."""
    OMIT = "omit"
    """A stream message never comes."""
    CLOSE = "close"
    """The socket is closed instead of the message being sent."""
    STALL = "stall"
    """For `seconds` nothing but pongs comes; what was published meanwhile is lost."""
    EXPIRE = "expire"
    """The listenKey the message belongs to expires."""


STREAM_KINDS = frozenset(
    {
        FaultKind.DELAY,
        FaultKind.DUPLICATE,
        FaultKind.REORDER,
        FaultKind.OMIT,
        FaultKind.CLOSE,
        FaultKind.STALL,
        FaultKind.EXPIRE,
    }
)
REQUEST_KINDS = frozenset(
    {
        FaultKind.DROP,
        FaultKind.REFUSE,
        FaultKind.STATUS,
        FaultKind.DELAY,
        FaultKind.LOST_ANSWER,
        FaultKind.EMPTY,
    }
)


class FaultRule(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One way to go wrong.

    `route` is a pattern over "METHOD /path" of requests, "WS method" of those to the WebSocket API, and
    "ws name" of streams ("ws user" for user data), with * as wildcard. Each matching occasion is hit by
    `chance`, or exactly when its number, counted from 1 per rule, is in `schedule`. `times` bounds the
    hits (None: without end).
    """

    kind: FaultKind
    route: str = "*"
    chance: float = 1.0
    schedule: list[int] | None = None
    times: int | None = None
    seconds: float = 0.0
    status: int = 503
    seen: int = 0
    hits: int = 0


class FaultPlan:
    """The rules in force, and what they did so far."""

    def __init__(self, random: Random, rules: list[FaultRule] | None = None) -> None:
        self.rules: list[FaultRule] = rules or []
        self.counts: Counter[str] = Counter()
        self._random = random
        self._skew_ms = 0

    def add(self, rule: FaultRule) -> None:
        """Put a rule in force."""
        self.rules.append(rule)
        self._skew_ms = sum(int(r.seconds * 1_000) for r in self.rules if r.kind is FaultKind.SKEW)

    def clear(self) -> None:
        """Lift every rule."""
        self.rules.clear()
        self._skew_ms = 0

    @property
    def skew_ms(self) -> int:
        """How far the exchange's clock is ahead of the truth."""
        return self._skew_ms

    def strike(self, occasion: str, kinds: frozenset[FaultKind]) -> FaultRule | None:
        """Return the first rule of `kinds` that hits `occasion`, None when all goes well."""
        for rule in self.rules:
            if rule.kind not in kinds or not fnmatchcase(occasion, rule.route):
                continue
            rule.seen += 1
            if rule.times is not None and rule.hits >= rule.times:
                continue
            if rule.schedule is not None:
                is_hit = rule.seen in rule.schedule
            else:
                is_hit = rule.chance >= 1.0 or self._random.uniform(0.0, 1.0) < rule.chance
            if is_hit:
                rule.hits += 1
                self.counts[rule.kind.value] += 1
                return rule
        return None


def dump_failure(rule: FaultRule) -> dict[str, object]:
    """Return what the venue's front says when the engine behind it does not answer."""
    if rule.status in {418, 429}:
        return {"code": -1003, "msg": "Too many requests."}
    return VenueError({400: -1121, 401: -2015}.get(rule.status, -1007)).payload


_DECODER = msgspec.json.Decoder(list[FaultRule])


def parse_rules(body: bytes) -> list[FaultRule]:
    """Decode a JSON list of rules; msgspec.ValidationError names what is wrong."""
    return _DECODER.decode(body)
