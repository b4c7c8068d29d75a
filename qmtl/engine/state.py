"""Everything the engine knows: plain data, so that it can be stored, restored and hashed."""

import hashlib
from decimal import Decimal

import msgspec

from qmtl.core.event import SessionSetup
from qmtl.core.money import ZERO
from qmtl.core.order import Order
from qmtl.engine.risk import RiskAccount

FINISHED_KEPT = 256
"""Ended orders kept in memory, so that a late fill still finds its order."""

ENTERED, EXITED, REFUSED = 1, 2, 4


class Protection(msgspec.Struct):
    """The venue-side stop of one position: the order that gives it, since when it is owed.

    `owed_since_ms` is None while a stop works at the venue; `tried_ms` is when one was last sent.
    """

    owed_since_ms: int | None
    client_order_id: str = ""
    tried_ms: int = 0


class Flatten(msgspec.Struct):
    """A running FLATTEN: who asked and when the last round of closing orders went out."""

    who: str
    sent_ms: int
    rounds: int = 1


class BarNotes(msgspec.Struct):
    """What happened in the forming bar so far: a mask of ENTERED, EXITED, REFUSED, who refused, and why."""

    acted: int = 0
    gate: str = ""
    why: str = ""


class Undecided(msgspec.Struct):
    """A closed bar whose reason waits until the strategy has seen the other symbols' bars."""

    ts_ms: int
    symbol: str
    open_ms: int
    is_warm: bool
    numbers: dict[str, float] | None = None


class EngineState(msgspec.Struct, kw_only=True):
    """The folded truth of one account and one strategy.

    `drifts` maps a position key to the venue's quantity and since when it differs from ours; `suspects` holds
    differences one reconciliation saw and the next must confirm; `foreign_trades` are fills of orders not
    ours, against booking one twice; `fills_ms` is the exchange time up to which fills are known, 0 before
    the first; fills up to `adopted_ms` are part of the first statement; `wakes` are the exchange times
    somebody waits for; `numbers` what the forming bar's decision compared; `undecided` are closed bars whose
    reason the strategy still owes; `strategy` is the strategy's own dumped state in snapshots.
    """

    risk: RiskAccount
    setup: SessionSetup | None = None
    epoch: str = ""
    domain: str = ""
    ordinal: int = 0
    bars: int = 0
    last_bar_ms: dict[str, int] = {}
    protections: dict[str, Order] = {}
    finished: dict[str, Order] = {}
    cancel_wanted: list[str] = []
    notes: dict[str, BarNotes] = {}
    numbers: dict[str, float] | None = None
    undecided: list[Undecided] = []
    guard: dict[str, Protection] = {}
    flatten: Flatten | None = None
    drifts: dict[str, tuple[Decimal, int]] = {}
    suspects: dict[str, str] = {}
    foreign_orders: list[str] = []
    foreign_trades: dict[str, int] = {}
    booked: dict[str, int] = {}
    fills_ms: int = 0
    adopted_ms: int = 0
    wakes: list[int] = []
    has_account: bool = False
    has_mark_feed: bool = False
    state_who: str = ""
    day: int = -1
    day_start_equity: Decimal = ZERO
    peak_equity: Decimal = ZERO
    strategy: object = None


# Insertion order is kept, not sorted: it decides in which order orders are cancelled and forgotten, so it
# is part of the state. The state therefore holds no sets.
_ENCODER = msgspec.msgpack.Encoder()


def dump_state(state: EngineState) -> bytes:
    """Encode the whole state; equal states give equal bytes."""
    return _ENCODER.encode(state)


def parse_state(body: bytes) -> EngineState:
    """Decode what `dump_state` wrote."""
    return msgspec.msgpack.decode(body, type=EngineState)


def hash_state(state: EngineState) -> str:
    """Return BLAKE2b-128 (hex) over orders, positions, balances, trading state and strategy state."""
    return hashlib.blake2b(dump_state(state), digest_size=16).hexdigest()
