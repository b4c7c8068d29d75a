"""Where a publisher's order ends: a simulated venue, a broker, a sink without a journal, or nowhere."""

import inspect
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Protocol

from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, OrderStatus, OrderValidationError, parse_status
from qmtl.core.order_payload import to_broker_order
from qmtl.engine.intents import symbol_key
from qmtl.engine.journal import IntentJournal, JournalError
from qmtl.engine.order_journal import memory_journal, open_order_journal
from qmtl.engine.ports import Clock, Random, Reach
from qmtl.engine.risk import Refused
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage import execution
from qmtl.runtime.sdk.brokerage.intent_desk import IntentDesk, dump_body, parse_intent
from qmtl.runtime.sdk.brokerage.order_road import OrderRoad
from qmtl.runtime.sdk.brokerage.result import (
    DomainViolation,
    InstrumentBlocked,
    OrderNotSent,
    OrderRejected,
    OrderResult,
    RiskRefused,
    SandboxUnavailable,
    VenueConfigurationError,
)
from qmtl.runtime.sdk.node_simulation import Simulation

Payload = Mapping[str, Any]
NOT_TAKEN = (
    DomainViolation,
    InstrumentBlocked,
    JournalError,
    OrderNotSent,
    OrderRejected,
    OrderValidationError,
    RiskRefused,
    SandboxUnavailable,
    VenueConfigurationError,
)
"""Errors after which the venue provably has no such order."""
_CONTEXT_FIELDS = frozenset({"execution_domain", "world_id", "strategy_id"})


def to_order(payload: Payload, symbol: str) -> dict[str, Any]:
    """Return a payload as a broker order; `symbol` is for payloads that name none."""
    order = {key: value for key, value in payload.items() if key not in _CONTEXT_FIELDS}
    order.setdefault("symbol", symbol)
    return to_broker_order(order)


class OrderSink(Protocol):
    """One order's way out, used once: ask `admit`, then `send`."""

    @property
    def is_spot(self) -> bool:
        """Tell whether what is sold must be held."""

    def position(self, symbol: str) -> Decimal:
        """Return the signed base units held."""

    def admit(self, payload: Payload, symbol: str) -> None:
        """Pass risk: RiskRefused or InstrumentBlocked; sinks that do it while sending do nothing."""

    def send(self, payload: Payload) -> bool:
        """Send; False when the order was finally refused."""


class SimulatedSink:
    """Orders of the row that is travelling, to the simulation's engine."""

    is_spot = False

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._intent: OrderIntent | None = None

    def position(self, symbol: str) -> Decimal:
        """See OrderSink."""
        return self._simulation.position(symbol)

    def admit(self, payload: Payload, symbol: str) -> None:
        """See OrderSink; the engine records a refusal too."""
        intent = self._intent = parse_intent(to_order(payload, symbol))
        verdict = self._simulation.assess(intent)
        if isinstance(verdict, Refused):
            self._simulation.submit(intent)
            raise RiskRefused(verdict.code.value, verdict.detail)

    def send(self, payload: Payload) -> bool:
        """See OrderSink."""
        return self._intent is not None and self._simulation.submit(self._intent) is not None


class ServiceSink:
    """A broker client, which passes risk and keeps the journal itself, or a sink outside every domain."""

    def __init__(self, service: Any) -> None:
        self._service = service
        self.is_spot = getattr(service, "is_spot", False) is True

    def position(self, symbol: str) -> Decimal:
        """See OrderSink; ConnectionError where the broker cannot be asked."""
        if isinstance(self._service, OrderRoad):
            return BACKGROUND.run(self._service.position(symbol))
        return ZERO

    def admit(self, payload: Payload, symbol: str) -> None:
        """See OrderSink."""

    def send(self, payload: Payload) -> bool:
        """See OrderSink."""
        return not _is_rejected(post(self._service, payload))


class RecordedSink:
    """A sink without a journal of its own, or none at all (shadow): the Runner records its intents."""

    def __init__(self, service: Any, desk: "RecordingDesk", reach: Reach = "memory") -> None:
        self._service = service
        self._reach = reach
        self.is_spot = getattr(service, "is_spot", False) is True
        self._desk = desk
        self._body: dict[str, Any] = {}

    def position(self, symbol: str) -> Decimal:
        """See OrderSink: the journal's folded position."""
        return self._desk.position(symbol)

    def admit(self, payload: Payload, symbol: str) -> None:
        """See OrderSink."""
        if self._service is not None:
            execution.check_reach(payload, self._reach)
        self._body = to_order(payload, symbol)
        self._desk.admit(self._body)

    def send(self, payload: Payload) -> bool:
        """See OrderSink: durable first, then the payload as it is, then what came of it."""
        key = self._desk.record(self._body)
        if self._service is None:
            self._desk.report(key, OrderStatus.REJECTED, "shadow: recorded, not sent")
            return True
        try:
            answer = post(self._service, payload)
        except NOT_TAKEN as error:
            self._desk.report(key, OrderStatus.REJECTED, str(error))
            raise
        if isinstance(answer, Mapping):
            self._desk.report_answer(key, answer)
        else:
            self._desk.report(key, OrderStatus.ACCEPTED, "")
        return not _is_rejected(answer)


class RecordingDesk:
    """The Runner's own intents: risk, ids and records for orders that no client keeps.

    `is_durable` writes to `connectors.order_journal` (which takes it for this process: JournalError naming
    who else holds it), except in test mode; otherwise the records live as long as the process.
    """

    def __init__(self, account: str, clock: Clock, random: Random, *, is_durable: bool) -> None:
        self._account = account
        self._clock = clock
        self._random = random
        self._is_durable = is_durable
        self._desk: IntentDesk | None = None

    def open(self) -> None:
        """Open the journal now instead of at the first order."""
        BACKGROUND.run(self._open())

    @property
    def journal(self) -> IntentJournal:
        """What was recorded."""
        return BACKGROUND.run(self._open()).journal

    def position(self, symbol: str) -> Decimal:
        """Return the folded position in signed base units."""
        return BACKGROUND.run(self._position(symbol))

    def admit(self, body: Payload) -> None:
        """Pass a broker order through risk: RiskRefused, InstrumentBlocked."""
        BACKGROUND.run(self._admit(body))

    def record(self, body: Payload) -> str:
        """Make the intent durable and return its id; JournalError when it cannot be."""
        return BACKGROUND.run(self._record(body))

    def report(self, client_order_id: str, status: OrderStatus, reason: str) -> None:
        """Record what became of an order."""
        BACKGROUND.run(self._report(client_order_id, status, reason))

    def report_answer(self, client_order_id: str, answer: Payload) -> None:
        """Record what the sink answered."""
        BACKGROUND.run(self._report_answer(client_order_id, answer))

    # A journal file belongs to the thread that opened it: everything below runs on the background loop.

    async def _open(self) -> IntentDesk:
        if self._desk is None:
            connectors = runtime.settings().connectors
            if self._is_durable and not runtime.TEST_MODE:
                journal: IntentJournal = open_order_journal(
                    connectors.order_journal.expanduser(),
                    self._clock,
                    self._random,
                    worker_id=connectors.worker_id,
                )
            else:
                journal = memory_journal(self._random)
            self._desk = IntentDesk(journal, self._account, self._clock)
        return self._desk

    async def _position(self, symbol: str) -> Decimal:
        return (await self._open()).risk.account.net_quantity(symbol_key(symbol))

    async def _admit(self, body: Payload) -> None:
        (await self._open()).check_risk(parse_intent(body))

    async def _record(self, body: Payload) -> str:
        desk, intent = await self._open(), parse_intent(body)
        ordinal = desk.next_ordinal(body)
        key = str(body.get("client_order_id") or desk.mint(body, ordinal, intent))
        entry = desk.find(key, dump_body(body), intent)
        if entry is None:
            desk.record(key, ordinal, intent, dump_body(body))
        else:
            desk.repeat(entry)
        return key

    async def _report(self, client_order_id: str, status: OrderStatus, reason: str) -> None:
        (await self._open()).report(client_order_id, status, reason)

    async def _report_answer(self, client_order_id: str, answer: Payload) -> None:
        (await self._open()).report_result(OrderResult({**answer, "client_order_id": client_order_id}))


def post(service: Any, payload: Payload) -> Any:
    """Hand a payload to a sink's `post_order`, which may be a coroutine function; its errors pass."""
    answer = service.post_order(payload)
    if inspect.isawaitable(answer):
        return BACKGROUND.run(_await(answer))
    return answer


async def _await(answer: Any) -> Any:
    return await answer


def _is_rejected(answer: Any) -> bool:
    if not isinstance(answer, Mapping) or not isinstance(answer.get("status"), str):
        return False
    return parse_status(answer["status"]) is OrderStatus.REJECTED
