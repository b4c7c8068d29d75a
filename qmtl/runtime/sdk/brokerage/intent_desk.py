"""What stands between an order and its sending: id, risk, and the journal, for one account."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import msgspec
import structlog

from qmtl.core.event import IntentRecorded, IntentRefused, OrderReported
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.money import ZERO, dump_decimal, parse_decimal
from qmtl.core.order import (
    DONE,
    OrderIntent,
    OrderStatus,
    OrderType,
    OrderValidationError,
    PositionSide,
    Side,
    TimeInForce,
)
from qmtl.core.order_payload import mint_client_order_id
from qmtl.core.reason import RefusalCode, TradingState
from qmtl.engine.intents import IntentEntry, symbol_key
from qmtl.engine.journal import IntentJournal, JournalError
from qmtl.engine.ports import Clock
from qmtl.engine.risk import Refused, RiskAccount, assess, is_reducing
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.result import InstrumentBlocked, OrderResult, RiskRefused

_TYPES = {
    "market": OrderType.MARKET,
    "limit": OrderType.LIMIT,
    "stop": OrderType.STOP_MARKET,
    "stop_limit": OrderType.STOP,
}
_RATE_KEPT = 10_000
"""Times of openings kept for the orders-per-minute limit."""
_log = structlog.get_logger("qmtl.broker")


def parse_intent(body: Mapping[str, Any]) -> OrderIntent:
    """Return the intent of a normalised broker order; what a service lets be absent is empty, BUY, or 0."""

    def number(name: str) -> Decimal | None:
        return None if name not in body else parse_decimal(body[name], name)

    expire_s = number("expire_at")
    tif = body.get("time_in_force")
    return OrderIntent(
        symbol=symbol_key(body.get("symbol", "")),
        side=Side(body.get("side", "BUY")),
        quantity=number("quantity") or ZERO,
        type=_TYPES[body["type"]],
        limit_price=number("limit_price"),
        stop_price=number("stop_price"),
        time_in_force=None if tif is None else TimeInForce(tif),
        expire_ms=None if expire_s is None else int(expire_s * 1000),
        reduce_only=bool(body.get("reduce_only")),
        position_side=PositionSide(body.get("position_side", "BOTH")),
        bar_ms=int((number("timestamp") or ZERO) * 1000),
    )


def dump_body(body: Mapping[str, Any]) -> str:
    """Return canonical JSON of a normalised order: equal orders give equal text, 1 and 1.0 are equal."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): plain(value[key]) for key in sorted(value)}
        if isinstance(value, list | tuple):
            return [plain(one) for one in value]
        if isinstance(value, bool) or value is None or isinstance(value, str):
            return value
        return (
            dump_decimal(parse_decimal(value, "order"))
            if isinstance(value, int | float | Decimal)
            else str(value)
        )

    return msgspec.json.encode(plain(body)).decode()


def configured_limits() -> RiskLimits:
    """Return the limits somebody set in the `risk` section; its defaults are the trader's own."""
    risk = runtime.settings().risk
    given = risk.model_fields_set
    return RiskLimits(**{name: getattr(risk, name) for name in RiskLimits.__struct_fields__ if name in given})


class IntentDesk:
    """Mints, checks, records and folds the orders of one account in one journal; sends nothing."""

    def __init__(self, journal: IntentJournal, account: str, clock: Clock) -> None:
        self.journal = journal
        self.account = account
        self._clock = clock

    @property
    def risk(self) -> RiskAccount:
        """What risk looks at: folded positions, trading state, blocks."""
        return self.journal.intents.risk(self.account)

    def next_ordinal(self, order: Mapping[str, Any]) -> int:
        """Count one more intent of the order's strategy."""
        return self.journal.next_ordinal(_strategy(order))

    def mint(self, order: Mapping[str, Any], ordinal: int, intent: OrderIntent) -> str:
        """Return a new client order id."""
        world = str(order.get("world_id") or runtime.settings().connectors.world_id or "")
        return mint_client_order_id(self.journal.epoch, world, _strategy(order), ordinal, intent)

    def unsettled(self) -> list[IntentEntry]:
        """Return the orders of this account whose outcome is not known, and those never made durable."""
        return self.journal.intents.unsettled(self.account)

    def find_interrupted(self) -> bool:
        """Mark the orders a process that ended was sending as UNKNOWN; tell whether there are any."""
        ids = self.journal.interrupted
        mine = [e for e in self.unsettled() if e.order.client_order_id in ids]
        for entry in mine:
            ids.discard(entry.order.client_order_id)
            self.report(entry.order.client_order_id, OrderStatus.UNKNOWN, "interrupted while being sent")
        return bool(mine)

    def find(self, client_order_id: str, text: str, intent: OrderIntent) -> IntentEntry | None:
        """Return the entry of a known id; OrderValidationError when it was used for another order."""
        self.journal.refresh()
        entry = self.journal.find(client_order_id)
        if entry is None:
            return None
        known = entry.order.intent
        plain = msgspec.structs.replace(known, role=intent.role, bar_ms=intent.bar_ms, why=intent.why)
        if entry.account != self.account or (entry.body != text if entry.body else plain != intent):
            raise OrderValidationError(f"client_order_id: {client_order_id} was used for another order")
        return entry

    def check_risk(self, intent: OrderIntent) -> None:
        """Raise InstrumentBlocked or RiskRefused unless the order may be sent."""
        risk = self.risk
        risk.now_ms = self._clock.now_ms()
        risk.speed = self._clock.speed
        price = intent.limit_price or intent.stop_price
        marks = risk.account.marks
        if (mark := execution.current_context().mark) is not None:
            marks[intent.symbol] = mark
        seen = marks.pop(intent.symbol, None) if price is not None else None
        risk.instruments = {intent.symbol: _any_steps(intent)}
        try:
            verdict = assess(intent, risk, configured_limits())
        finally:
            if seen is not None:
                marks[intent.symbol] = seen
        if isinstance(verdict, Refused):
            # An engine would miss the record of a refusal it did not make.
            if self.account:
                self.journal.report(IntentRefused(risk.now_ms, verdict.code, verdict.detail, intent))
            if verdict.code is RefusalCode.INSTRUMENT_BLOCKED:
                raise InstrumentBlocked(verdict.detail)
            raise RiskRefused(verdict.code.value, verdict.detail)

    def find_ban(self, intent: OrderIntent) -> str:
        """Return why an order that risk let pass may no longer be sent, or nothing."""
        self.journal.refresh()
        risk = self.risk
        if risk.state is TradingState.HALTED:
            return f"halted: {risk.state_why}"
        if risk.state is TradingState.REDUCING and not is_reducing(intent, risk.account):
            return f"reducing: {risk.state_why}"
        return ""

    def record(self, client_order_id: str, ordinal: int, intent: OrderIntent, text: str) -> IntentEntry:
        """Make the intent durable; JournalError when it cannot be, and then nothing may be sent."""
        now_ms = self._clock.now_ms()
        entry = self.journal.record(
            IntentRecorded(now_ms, client_order_id, ordinal, intent, self.account, text)
        )
        risk = self.risk
        if not is_reducing(intent, risk.account):
            risk.sent_ms.append(now_ms)
            del risk.sent_ms[:-_RATE_KEPT]
        return entry

    def repeat(self, entry: IntentEntry) -> None:
        """Make an intent that was rejected or never durable ready to be sent under its id again."""
        if entry.order.status is OrderStatus.INITIALIZED:
            self.journal.refresh()
            return
        self.journal.report(
            OrderReported(
                self._clock.now_ms(),
                entry.order.client_order_id,
                OrderStatus.SUBMITTED,
                attempt=entry.attempt + 1,
            )
        )

    def report(self, client_order_id: str, status: OrderStatus, reason: str = "") -> None:
        """Record what became of an order without an answer of the venue; the same twice is once."""
        entry = self.journal.find(client_order_id)
        if entry is None or not entry.body or entry.order.status is status:
            return
        self._write(OrderReported(self._clock.now_ms(), client_order_id, status, reason=reason))

    def report_result(self, result: OrderResult, client_order_id: str | None = None) -> str:
        """Record the venue's answer and return the client id it is about.

        A word nobody knows means that the venue has the order.
        """
        known = self.journal.intents.by_venue_id.get((self.account, result.id))
        key = client_order_id or known or result.client_order_id
        entry = self.journal.find(key)
        if entry is None:
            return key
        order = entry.order
        result.know_quantity(order.intent.quantity)
        if not entry.body:
            # The engine that recorded this intent hears of it by its own feed.
            return key
        status = result.status
        if status is OrderStatus.UNKNOWN:
            status = OrderStatus.ACCEPTED
        filled = result.filled or ZERO
        is_news = status is not order.status or filled > order.filled or order.venue_order_id != result.id
        if is_news:
            self._write(
                OrderReported(
                    self._clock.now_ms(),
                    order.client_order_id,
                    status,
                    result.id,
                    filled,
                    result.average_price,
                    result.fee or ZERO,
                    result.reason,
                    entry.attempt,
                )
            )
        return key

    def _write(self, event: OrderReported) -> None:
        try:
            self.journal.report(event)
        except JournalError as error:
            # The order is at the venue: an exception here would hide that. The next start looks it up.
            _log.error(
                "order news not durable",
                client_order_id=event.client_order_id,
                reason=str(error),
                action="free the disk",
            )

    def symbol_of(self, order_id: str | None, client_order_id: str | None) -> str | None:
        """Return the symbol, as it was given, of an order by its broker id or its client id."""
        key = client_order_id
        if order_id is not None:
            key = self.journal.intents.by_venue_id.get((self.account, order_id), key)
        entry = None if key is None else self.journal.find(key)
        return None if entry is None else symbol_of(entry)


def symbol_of(entry: IntentEntry) -> str:
    """Return the symbol as the order gave it."""
    given = msgspec.json.decode(entry.body).get("symbol") if entry.body else None
    return str(given or entry.order.intent.symbol)


def recorded_result(entry: IntentEntry) -> OrderResult:
    """Return what the journal knows of an order, as the broker would answer."""
    order = entry.order
    answer: dict[str, Any] = {
        "id": order.venue_order_id,
        "client_order_id": order.client_order_id,
        "symbol": symbol_of(entry),
        "status": order.status.value,
        "quantity": float(order.intent.quantity),
        "filled": float(order.filled),
    }
    if order.average_price is not None:
        answer["average_price"] = float(order.average_price)
    if order.status in DONE and order.filled:
        answer["fee"] = float(order.fee)
    return OrderResult(answer, reason=order.reason)


def _strategy(order: Mapping[str, Any]) -> str:
    return str(order.get("strategy_id") or runtime.settings().connectors.strategy_id or "")


def _any_steps(intent: OrderIntent) -> Instrument:
    """An instrument that takes the order's own steps: the venue's are its client's business."""

    def step(*values: Decimal | None) -> Decimal:
        return Decimal((0, (1,), min(int(v.as_tuple().exponent) for v in values if v is not None)))

    quantity = intent.quantity
    return Instrument(
        symbol=intent.symbol,
        base=intent.symbol,
        quote="",
        settle="",
        tick_size=step(ZERO, intent.limit_price, intent.stop_price),
        lot_size=step(quantity),
        min_quantity=quantity,
        max_quantity=quantity,
        market_max_quantity=quantity,
        min_notional=ZERO,
    )
