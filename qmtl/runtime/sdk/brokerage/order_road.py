"""The road of every order of a broker client: id, risk, durable intent, send policy, and what came of it."""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import structlog

from qmtl.core.account import Balance
from qmtl.core.fill import Fill
from qmtl.core.money import ZERO
from qmtl.core.order import UNSETTLED, BrokerageError, OrderStatus
from qmtl.core.order_payload import to_broker_order
from qmtl.core.position import Position
from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.intents import IntentEntry, symbol_key
from qmtl.engine.journal import IntentJournal
from qmtl.engine.order_journal import OrderJournal, memory_journal, open_order_journal
from qmtl.engine.ports import Clock, EventJournal, Random, Reach
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.intent_desk import (
    IntentDesk,
    dump_body,
    parse_intent,
    recorded_result,
    symbol_of,
)
from qmtl.runtime.sdk.brokerage.result import OrderNotSent, OrderRejected, OrderResult, OrderUnknown
from qmtl.runtime.sdk.brokerage.send_policy import SendPolicy, Verdict, classify_error

JournalSource = IntentJournal | EventJournal | str | Path | None

CONTEXT_FIELDS = frozenset({"execution_domain", "world_id", "strategy_id"})
_ANSWERS_KEPT = 10_000
_SENDABLE = frozenset({OrderStatus.INITIALIZED, OrderStatus.REJECTED})
_log = structlog.get_logger("qmtl.broker")
_turns: "WeakKeyDictionary[IntentJournal, WeakValueDictionary[str, asyncio.Lock]]" = WeakKeyDictionary()
"""One sender per client id at a time, over all clients of a journal."""


class OrderRoad(ABC):
    """What BrokerageClient does with an order; a concrete client adds one-request transport hooks.

    Everything here runs on the background loop, whoever calls.
    """

    capabilities: frozenset[str] = frozenset()
    """Optional methods that work: find_order, fetch_open_orders, fetch_fills, fetch_positions,
    fetch_balances, post_oco."""

    def __init__(
        self,
        *,
        venue: str,
        base_url: str = "",
        key: str = "",
        journal: JournalSource = None,
        max_retries: int = 3,
        backoff: float = 0.1,
        absence_window_s: float = 5.0,
        classify: Callable[[Exception], Verdict] = classify_error,
        clock: Clock | None = None,
        random: Random | None = None,
    ) -> None:
        self.clock: Clock = clock or SystemClock()
        self.random: Random = random or SystemRandom()
        digest = hashlib.sha256(f"{base_url}\0{key}".encode()).hexdigest()[:16]
        self.account = f"{venue}-{digest}"
        self.policy = SendPolicy(
            self.clock,
            self.random,
            max_retries=max_retries,
            backoff_s=backoff,
            absence_window_s=absence_window_s,
            classify=classify,
        )
        self._source = journal
        self._desk: IntentDesk | None = None
        self._answers: dict[str, OrderResult] = {}
        self._settler: asyncio.Task[None] | None = None
        self._settling = asyncio.Lock()

    @property
    def reach(self) -> Reach:
        """How far its orders go: memory, sandbox (verified) or live."""
        return "live"

    @property
    def is_spot(self) -> bool:
        """Tell whether what is sold must be held, so that every sale closes."""
        return False

    # --- transport hooks: one request each, on the background loop -------------------------------------

    def _normalise(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Return the order in broker form; OrderValidationError naming what is wrong. No request."""
        return to_broker_order({k: v for k, v in order.items() if k not in CONTEXT_FIELDS})

    async def _prepare(self, order: dict[str, Any]) -> None:  # noqa: B027 - most clients need nothing here
        """Check and configure what needs the venue (markets, steps, leverage): after risk, before the record.

        A BrokerageError here means that nothing was sent.
        """

    @abstractmethod
    async def _send(self, order: dict[str, Any], client_order_id: str) -> OrderResult:
        """Send once under `client_order_id`; every exception is judged by `classify`."""

    async def _find(self, client_order_id: str, symbol: str | None) -> OrderResult | None:
        """Ask by client id: the order, or None when its absence is certain at this moment."""
        raise BrokerageError(f"{type(self).__name__} cannot find_order")

    @abstractmethod
    async def _poll(
        self, order_id: str | None, client_order_id: str | None, symbol: str | None
    ) -> OrderResult | None:
        """Ask what became of an order, None when the broker knows no such order."""

    @abstractmethod
    async def _cancel(self, order_id: str, symbol: str | None) -> OrderResult:
        """Cancel; for an order that ended return its true state. OrderNotFound, CancelFailed."""

    async def _fetch_open_orders(self, symbol: str | None) -> list[OrderResult]:
        raise BrokerageError(f"{type(self).__name__} cannot fetch_open_orders")

    async def _fetch_fills(self, since_ms: int, symbol: str | None) -> list[Fill]:
        raise BrokerageError(f"{type(self).__name__} cannot fetch_fills")

    async def _fetch_positions(self) -> list[Position]:
        raise BrokerageError(f"{type(self).__name__} cannot fetch_positions")

    async def _fetch_balances(self) -> list[Balance]:
        raise BrokerageError(f"{type(self).__name__} cannot fetch_balances")

    async def _post_oco(
        self, first: Mapping[str, Any], second: Mapping[str, Any]
    ) -> tuple[OrderResult, OrderResult]:
        raise BrokerageError(f"{type(self).__name__} cannot post_oco")

    def check_oco_leg(self, order: Mapping[str, Any]) -> None:  # noqa: B027 - most clients take any pair
        """Raise OrderValidationError when `order` cannot be one of a pair that is not the broker's own."""

    def _answer_without_ids(self, order: Mapping[str, Any]) -> OrderResult | None:
        """Answer a poll that names no id."""
        return None

    async def _close(self) -> None:  # noqa: B027 - most clients open nothing of their own
        """Close what the client itself opened."""

    # --- the journal -----------------------------------------------------------------------------------

    @property
    def desk(self) -> IntentDesk:
        """The open journal's desk; JournalError when the journal or the account is not ours."""
        if self._desk is None:
            journal = self._open()
            if isinstance(journal, OrderJournal):
                journal.own(self.account)
            # A journal that is an engine's is of one account, and its intents name none.
            is_engines = journal is not self._source and not isinstance(journal, OrderJournal)
            self._desk = IntentDesk(journal, "" if is_engines else self.account, self.clock)
            if self._desk.find_interrupted():
                self._settle_later()
        return self._desk

    def _open(self) -> IntentJournal:
        source = self._source
        if source is None and self.reach != "memory" and not runtime.TEST_MODE:
            source = runtime.settings().connectors.order_journal
        if source is None:
            return memory_journal(self.random)
        if isinstance(source, IntentJournal):
            return source
        if isinstance(source, str | Path):
            worker_id = runtime.settings().connectors.worker_id
            path = Path(source).expanduser()
            return open_order_journal(path, self.clock, self.random, worker_id=worker_id)
        return IntentJournal(source)

    # --- sending ---------------------------------------------------------------------------------------

    async def _place(self, order: Mapping[str, Any]) -> OrderResult:
        """Send an order once; for an id that is known, say what became of it instead."""
        body = self._normalise(order)
        intent = parse_intent(body)
        desk = self.desk
        ordinal = desk.next_ordinal(order)
        cid = str(body.get("client_order_id") or desk.mint(order, ordinal, intent))
        body["client_order_id"] = cid
        text = dump_body(body)
        async with self._turn(cid):
            entry = desk.find(cid, text, intent)
            if entry is not None and entry.order.status in UNSETTLED:
                found = await self._look(entry)
                return await self._transmit(body, cid) if found is None else self._keep(found, cid)
            if entry is not None and entry.order.status not in _SENDABLE:
                return self._recorded(entry)
            desk.check_risk(intent)
            await self._prepare(body)
            if entry is None:
                desk.record(cid, ordinal, intent, text)
            else:
                desk.repeat(entry)
            return await self._transmit(body, cid)

    async def _transmit(self, body: dict[str, Any], cid: str) -> OrderResult:
        desk = self.desk
        intent = parse_intent(body)
        try:
            # Between risk and a resend the account may have been halted: the desk is asked every time.
            result = await self._carry(body, cid, lambda: self.desk.find_ban(intent))
        except OrderUnknown as error:
            desk.report(cid, OrderStatus.UNKNOWN, error.reason)
            self._settle_later()
            raise
        except OrderNotSent:
            desk.report(cid, OrderStatus.REJECTED, "not_sent")
            raise
        except BrokerageError as error:
            reason = error.reason if isinstance(error, OrderRejected) else str(error)
            desk.report(cid, OrderStatus.REJECTED, reason)
            raise
        return self._keep(result, cid)

    async def _carry(
        self, body: dict[str, Any], cid: str, find_ban: Callable[[], str] | None = None
    ) -> OrderResult:
        """Send under `cid` until the outcome is certain; whoever calls owns the intent."""
        can_find = "find_order" in self.capabilities

        async def attempt() -> OrderResult:
            if find_ban is not None and (ban := find_ban()):
                raise OrderRejected(ban)
            return await self._send(body, cid)

        return await self.policy.send(
            cid,
            attempt,
            (lambda: self._find(cid, body.get("symbol"))) if can_find else None,
        )

    async def carry(
        self, order: Mapping[str, Any], client_order_id: str, find_ban: Callable[[], str] | None = None
    ) -> OrderResult:
        """Send an order whose intent an engine has recorded and assessed; errors as post_order's.

        `find_ban` is asked before every sending, resends too: what it answers keeps the order here. On
        the background loop only.
        """
        body = self._normalise({**order, "client_order_id": client_order_id})
        await self._prepare(body)
        return await self._carry(body, client_order_id, find_ban)

    async def prove(self, client_order_id: str, symbol: str | None) -> OrderResult | None:
        """Return what the venue holds under an id, None once absence is proven; OrderUnknown.

        On the background loop only.
        """
        return await self.policy.prove(
            client_order_id, lambda: self._find(client_order_id, symbol), self.clock.real_ms()
        )

    async def _look(self, entry: IntentEntry) -> OrderResult | None:
        """Return what the venue holds of an order whose sending was doubtful, None once proven absent."""
        cid = entry.order.client_order_id
        try:
            if "find_order" not in self.capabilities:
                raise OrderUnknown(f"{type(self).__name__} cannot be asked by client id", cid)
            return await self.prove(cid, symbol_of(entry))
        except OrderUnknown as error:
            self.desk.report(cid, OrderStatus.UNKNOWN, error.reason)
            self._settle_later()
            raise

    def _keep(self, result: OrderResult, client_order_id: str | None = None) -> OrderResult:
        """Fold an answer about one order, whose id is given or read from it, and remember it."""
        self._answers[self.desk.report_result(result, client_order_id)] = result
        if len(self._answers) > _ANSWERS_KEPT:
            del self._answers[next(iter(self._answers))]
        return result

    def _recorded(self, entry: IntentEntry) -> OrderResult:
        """Return the broker's own last answer where this client heard it, else what the journal knows."""
        heard = self._answers.get(entry.order.client_order_id)
        if heard is not None and heard.status in {entry.order.status, OrderStatus.UNKNOWN}:
            return heard
        return recorded_result(entry)

    def _turn(self, cid: str) -> asyncio.Lock:
        return _turns.setdefault(self.desk.journal, WeakValueDictionary()).setdefault(cid, asyncio.Lock())

    # --- what became of it -----------------------------------------------------------------------------

    async def position(self, symbol: str) -> Decimal:
        """Return the signed base units held in `symbol`: as the broker states it, else the journal's."""
        if "fetch_positions" in self.capabilities:
            held = await self.policy.ask(self._fetch_positions)
            return sum((one.quantity for one in held if symbol_key(one.symbol) == symbol), ZERO)
        return self.desk.risk.account.net_quantity(symbol)

    async def _status(self, order: Mapping[str, Any]) -> OrderResult | None:
        """Ask by broker id, else by client id; None without either."""
        order_id = str(order.get("id") or "") or None
        names = ("client_order_id", "clientOrderId", "newClientOrderId")
        cid = next((str(order[name]) for name in names if order.get(name)), None)
        if order_id is None and cid is None:
            return self._answer_without_ids(order)
        symbol = order.get("symbol") or self.desk.symbol_of(order_id, cid)
        result = await self._poll(order_id, cid, symbol)
        return None if result is None else self._keep(result, cid)

    async def _recall(self, order_id: str, symbol: str | None) -> OrderResult:
        """Cancel one order, under the symbol it was posted with."""
        symbol = symbol or self.desk.symbol_of(order_id, None)
        return self._keep(await self._cancel(order_id, symbol))

    async def _reconcile(self) -> list[OrderResult]:
        """Settle every order whose outcome is unknown and is not being sent now.

        Two at a time would skip what the other is looking at, and one of them return before it is known.
        """
        async with self._settling:
            return await self._settle()

    async def _settle(self) -> list[OrderResult]:
        desk = self.desk
        settled: list[OrderResult] = []
        for entry in desk.unsettled():
            cid = entry.order.client_order_id
            turn = self._turn(cid)
            if turn.locked():
                continue
            async with turn:
                if entry.order.status is OrderStatus.INITIALIZED:
                    desk.report(cid, OrderStatus.REJECTED, "not_sent")
                elif entry.order.status in UNSETTLED:
                    try:
                        found = await self._look(entry)
                    except (OrderUnknown, OrderNotSent):
                        continue
                    if found is None:
                        desk.report(cid, OrderStatus.REJECTED, "absent")
                    else:
                        self._keep(found, cid)
                settled.append(self._recorded(entry))
        return settled

    def _settle_later(self) -> None:
        if self._settler is None or self._settler.done():
            self._settler = asyncio.get_running_loop().create_task(self._keep_settling())

    async def _keep_settling(self) -> None:
        """Reconcile every poll interval until every outcome is known."""
        while self.desk.unsettled():
            await self.clock.sleep(runtime.POLL_INTERVAL_SECONDS)
            try:
                await self._reconcile()
            except BrokerageError as error:
                _log.warning("orders still unsettled", reason=str(error), action="asked again")

    async def shut(self) -> None:
        """Stop settling and close what the client opened; on the background loop only."""
        if self._settler is not None:
            self._settler.cancel()
        await self._close()
