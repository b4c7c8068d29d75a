"""Events: what happened, past tense.

Every event has `ts_ms`: exchange time in UTC milliseconds. Events and records are stored in the journal as
tagged msgpack arrays: append fields only at the end and with a default.
"""

from decimal import Decimal
from typing import get_args

import msgspec

from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, OrderStatus, OrderType, PositionSide, Side
from qmtl.core.reason import Reason, TradingState


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True, tag=True):
    """Base of everything that enters the engine."""

    ts_ms: int


# --- market ---------------------------------------------------------------------------------------


class BarClosed(Event, frozen=True, gc=False):
    """A candle closed: [open_ms, open_ms + interval); `refilled` came late by REST, `warmup` before start."""

    symbol: str
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    refilled: bool = False
    warmup: bool = False


class PriceUpdated(Event, frozen=True, gc=False):
    """The forming candle changed; `close` is the last price."""

    symbol: str
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class MarkPriceUpdated(Event, frozen=True, gc=False):
    """The venue published a mark price and the rate of the coming funding."""

    symbol: str
    mark: float
    funding_rate: float = 0.0
    next_funding_ms: int = 0


class FeedStateChanged(Event, frozen=True, gc=False):
    """A stream became fresh or stale; entries need every stream fresh."""

    stream: str
    is_fresh: bool
    reason: str = ""


class ClockChecked(Event, frozen=True, gc=False):
    """Our clock was compared with the venue's; offset is ours minus theirs, in real milliseconds."""

    offset_ms: float


# --- orders ---------------------------------------------------------------------------------------


class OrderAccepted(Event, frozen=True, gc=False):
    """The venue took an order."""

    client_order_id: str
    venue_order_id: str = ""


class OrderFilled(Event, frozen=True, gc=False):
    """An order traded: `quantity` base units at `price`; `fee` in `fee_asset`, negative for a rebate."""

    client_order_id: str
    trade_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_asset: str
    is_maker: bool = False
    position_side: PositionSide = PositionSide.BOTH
    venue_order_id: str = ""


class OrderCanceled(Event, frozen=True, gc=False):
    """An order was cancelled; its fills stand."""

    client_order_id: str
    reason: str = ""
    venue_order_id: str = ""


class OrderExpired(Event, frozen=True, gc=False):
    """An order ended by its time in force; its fills stand."""

    client_order_id: str
    reason: str = ""
    venue_order_id: str = ""


class OrderRejected(Event, frozen=True, gc=False):
    """An order was finally refused, or provably never taken (`not_sent`, `absent`)."""

    client_order_id: str
    reason: str = ""


class OrderUnsettled(Event, frozen=True, gc=False):
    """What became of an order could not be learned; its instrument is blocked until it is."""

    client_order_id: str
    reason: str = ""


class CancelRejected(Event, frozen=True, gc=False):
    """A cancel failed; the order goes on."""

    client_order_id: str
    reason: str = ""


# --- account --------------------------------------------------------------------------------------


class BalanceReport(msgspec.Struct, frozen=True, array_like=True):
    """A wallet balance as the venue states it."""

    asset: str
    wallet: Decimal
    change: Decimal = ZERO


class PositionReport(msgspec.Struct, frozen=True, array_like=True):
    """A position as the venue states it: signed base units and average entry."""

    symbol: str
    quantity: Decimal
    entry_price: Decimal
    side: PositionSide = PositionSide.BOTH


class OrderReport(msgspec.Struct, frozen=True, array_like=True):
    """An open order as the venue states it."""

    client_order_id: str
    venue_order_id: str
    symbol: str
    status: OrderStatus
    side: Side
    quantity: Decimal
    filled: Decimal = ZERO
    average_price: Decimal = ZERO
    type: OrderType = OrderType.LIMIT
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    reduce_only: bool = False
    close_position: bool = False
    position_side: PositionSide = PositionSide.BOTH


class AccountUpdated(Event, frozen=True, gc=False):
    """The venue stated balances and positions after `reason` (ORDER, FUNDING_FEE, DEPOSIT, ...)."""

    reason: str
    balances: tuple[BalanceReport, ...] = ()
    positions: tuple[PositionReport, ...] = ()


class FundingPaid(Event, frozen=True, gc=False):
    """Funding was booked: positive received, negative paid, in the settle currency."""

    symbol: str
    amount: Decimal
    funding_id: str = ""


class Transferred(Event, frozen=True, gc=False):
    """Money moved in (positive) or out of the account; also the first balance."""

    asset: str
    amount: Decimal
    transfer_id: str = ""


class AccountReconciled(Event, frozen=True, gc=False):
    """The venue's whole truth at one moment; anything the journal cannot explain is drift."""

    orders: tuple[OrderReport, ...] = ()
    balances: tuple[BalanceReport, ...] = ()
    positions: tuple[PositionReport, ...] = ()


# --- control --------------------------------------------------------------------------------------


class SessionSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Everything outside the events that decides what the engine does, so that a journal replays alone.

    `strategy` is `module:Class` and `params` its plain constructor data; `catastrophe_stop` is a fraction
    of the entry price, None where no stop rests at the venue; `needs_reconcile` holds entries back until the
    venue's account was compared, and a clock further off than `clock_limit_ms` until it is right.
    """

    strategy: str
    params: dict[str, str | int | float | bool | None] = {}
    instruments: tuple[Instrument, ...] = ()
    limits: RiskLimits = RiskLimits()
    world: str = ""
    asset: str = "USDT"
    catastrophe_stop: Decimal | None = None
    needs_reconcile: bool = False
    clock_limit_ms: float = 1_000.0


class SessionStarted(Event, frozen=True, gc=False):
    """A process opened the journal; `epoch` is random per opening, `speed` scales exchange time."""

    epoch: str
    domain: str
    setup: SessionSetup
    speed: float = 1.0
    version: str = ""
    run_id: str = ""


class TimerFired(Event, frozen=True, gc=False):
    """Time passed; the engine looks at time-outs."""


class TradingStateSet(Event, frozen=True, gc=False):
    """Somebody asked for another trading state."""

    state: TradingState
    who: str
    why: str


class LimitSet(Event, frozen=True, gc=False):
    """Somebody changed a risk limit; None removes it."""

    name: str
    value: str | None
    who: str


class FlattenRequested(Event, frozen=True, gc=False):
    """Somebody asked to close every position reduce-only."""

    who: str
    why: str = ""


class EntriesPaused(Event, frozen=True, gc=False):
    """The process is stopping: no new entry, resting entries are cancelled."""

    why: str


# --- records: what the engine itself decided, written beside the events ---------------------------


class IntentRecorded(Event, frozen=True, gc=False):
    """An intent passed risk and will be sent under this id once it is durable.

    A broker client that recorded it says for which `account`, and keeps the order's `body` as canonical
    JSON; intents of the engine have neither.
    """

    client_order_id: str
    ordinal: int
    intent: OrderIntent
    account: str = ""
    body: str = ""


class OrderReported(Event, frozen=True, gc=False):
    """A broker client learned where its order stands; `filled` (base units), price and fee are totals.

    `attempt` counts the sends of one id that had each ended in a rejection before the next.
    """

    client_order_id: str
    status: OrderStatus
    venue_order_id: str = ""
    filled: Decimal = ZERO
    average_price: Decimal | None = None
    fee: Decimal = ZERO
    reason: str = ""
    attempt: int = 1


class IntentRefused(Event, frozen=True, gc=False):
    """An intent was refused before it was sent."""

    code: str
    detail: str
    intent: OrderIntent


class DecisionMade(Event, frozen=True, gc=False):
    """The one reason of a closed bar: `gate` refused, `numbers` were compared, `why` the strategy noted."""

    symbol: str
    open_ms: int
    reason: Reason
    gate: str = ""
    numbers: dict[str, float] | None = None
    why: str = ""


class StateChanged(Event, frozen=True, gc=False):
    """The engine changed the trading state, for its own reasons or because it was asked."""

    state: TradingState
    who: str
    why: str


class ErrorRecorded(Event, frozen=True, gc=False):
    """Something happened that must not: an illegal transition, drift, an unknown order."""

    code: str
    detail: str
    client_order_id: str = ""


AnyEvent = (
    BarClosed
    | PriceUpdated
    | MarkPriceUpdated
    | FeedStateChanged
    | ClockChecked
    | OrderAccepted
    | OrderFilled
    | OrderCanceled
    | OrderExpired
    | OrderRejected
    | OrderUnsettled
    | CancelRejected
    | AccountUpdated
    | FundingPaid
    | Transferred
    | AccountReconciled
    | SessionStarted
    | TimerFired
    | TradingStateSet
    | LimitSet
    | FlattenRequested
    | EntriesPaused
    | IntentRecorded
    | IntentRefused
    | DecisionMade
    | StateChanged
    | ErrorRecorded
    | OrderReported
)
"""Everything a journal holds."""

RECORDS: tuple[type[Event], ...] = (
    IntentRecorded,
    IntentRefused,
    DecisionMade,
    StateChanged,
    ErrorRecorded,
    OrderReported,
)
MARKET: tuple[type[Event], ...] = (BarClosed, PriceUpdated, MarkPriceUpdated)
INPUTS: tuple[type[Event], ...] = tuple(kind for kind in get_args(AnyEvent) if kind not in RECORDS)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(AnyEvent)


def dump_event(event: Event) -> bytes:
    """Encode as a tagged msgpack array."""
    return _ENCODER.encode(event)


def parse_event(body: bytes) -> AnyEvent:
    """Decode what `dump_event` wrote; msgspec.ValidationError when it is something else."""
    event: AnyEvent = _DECODER.decode(body)
    return event
