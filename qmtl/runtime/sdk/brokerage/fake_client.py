"""A broker in memory, for demos and tests: a view over the one fill simulator."""

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from typing import Any, Literal

import msgspec

from qmtl.core.account import Account, Balance
from qmtl.core.event import AnyEvent, OrderFilled, OrderRejected
from qmtl.core.fill import Fill
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.order import (
    DONE,
    BrokerageError,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    OrderValidationError,
    PositionSide,
)
from qmtl.core.position import Position
from qmtl.engine.intents import symbol_key
from qmtl.engine.margin import build_brackets
from qmtl.engine.market_book import MarketBook
from qmtl.engine.matching import MatchingCore
from qmtl.engine.ports import Clock, Reach
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage.client import BrokerageClient, OrderLike, OrderPair
from qmtl.runtime.sdk.brokerage.intent_desk import parse_intent
from qmtl.runtime.sdk.brokerage.order_road import JournalSource
from qmtl.runtime.sdk.brokerage.result import OrderNotFound, OrderResult
from qmtl.runtime.sdk.brokerage.result import OrderRejected as Refusal

Mode = Literal["immediate", "manual"]
_STEP = Decimal("1E-17")
_LARGEST = Decimal(10) ** 10
_WALLET = Decimal(10) ** 12
_given: ContextVar[dict[str, Any]] = ContextVar("qmtl_fake_given")


class _Record(msgspec.Struct):
    """One order as this broker keeps it."""

    id: str
    client_order_id: str
    intent: OrderIntent
    echo: dict[str, Any]
    status: OrderStatus = OrderStatus.ACCEPTED
    filled: Decimal = ZERO
    value: Decimal = ZERO
    sibling: str = ""


class FakeBrokerageClient(BrokerageClient):
    """Fills at once (`immediate`) or when told (`manual`); ids are "1", "2", ...; reaches memory only.

    Orders fill at their own limit or stop price, else at the symbol's last price, else at 1. `strict`
    polls and cancels as a real broker answers; otherwise a poll without ids says completed, and a
    completed order can be cancelled.
    """

    capabilities: frozenset[str] = frozenset(
        {"find_order", "fetch_open_orders", "fetch_fills", "fetch_positions", "fetch_balances", "post_oco"}
    )

    def __init__(
        self,
        *,
        mode: Mode = "immediate",
        strict: bool = False,
        journal: JournalSource = None,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(venue="fake", journal=journal, clock=clock)
        if mode not in {"immediate", "manual"}:
            raise ValueError(f"mode: expected immediate or manual, got {mode!r}")
        self._mode = mode
        self._strict = strict
        self._account = Account()
        self._account.transfer(_WALLET)
        self._cores: dict[str, MatchingCore] = {}
        self._records: dict[str, _Record] = {}
        self._ids: dict[str, str] = {}
        self._pairs: dict[str, str] = {}
        self._fills: list[Fill] = []

    @property
    def reach(self) -> Reach:
        """See OrderRoad."""
        return "memory"

    def fill(
        self, order_id: str, quantity: float | Decimal | None = None, price: float | Decimal | None = None
    ) -> OrderResult:
        """Fill a resting order, whole or by `quantity`, at `price` or its own; OrderNotFound if none."""
        return BACKGROUND.run(self._fill(order_id, quantity, price))

    async def _fill(
        self, order_id: str, quantity: float | Decimal | None, price: float | Decimal | None
    ) -> OrderResult:
        record = self._records.get(str(order_id))
        if record is None or record.status in DONE:
            raise OrderNotFound(f"no order {order_id} rests here")
        core = self._core(record.intent.symbol)
        book = core.book(record.intent.symbol)
        working = book.orders[record.client_order_id]
        at = _price(record.intent, book) if price is None else Decimal(str(price))
        book.set_price(float(at))
        book.available = working.remaining if quantity is None else Decimal(str(quantity))
        events: list[AnyEvent] = []
        core.crossing.fill_resting(book, working, at, self.clock.now_ms(), events)
        book.available = None
        self._take(record, events)
        return self._keep(self._answer(record), record.client_order_id)

    # --- hooks -----------------------------------------------------------------------------------------

    async def _place(self, order: OrderLike) -> OrderResult:
        _given.set(dict(order))
        return await super()._place(order)

    async def _send(self, order: dict[str, Any], client_order_id: str) -> OrderResult:
        intent = parse_intent(order)
        if intent.quantity >= _LARGEST or max(intent.limit_price or 0, intent.stop_price or 0) >= _LARGEST:
            raise OrderValidationError(f"quantity and prices must be below {_LARGEST}")
        book = self._core(intent.symbol).book(intent.symbol)
        book.set_price(float(_price(intent, book)))
        record = _Record(str(len(self._records) + 1), client_order_id, intent, _given.get(order))
        sibling = self._records.get(self._ids.get(self._pairs.get(client_order_id, ""), ""))
        if sibling is not None:
            record.sibling, sibling.sibling = sibling.id, record.id
        if sibling is not None and sibling.filled:
            record.status = OrderStatus.CANCELED
        else:
            self._match(record)
        self._records[record.id] = record
        self._ids[client_order_id] = record.id
        return self._answer(record)

    def _match(self, record: _Record) -> None:
        intent, is_manual = record.intent, self._mode == "manual"
        price = intent.limit_price or intent.stop_price
        kind = OrderType.LIMIT if is_manual and price else OrderType.MARKET
        # A demo broker takes every order: what it would only reduce may be held elsewhere, and a stop is
        # triggered by whoever calls `fill`.
        taken = msgspec.structs.replace(
            intent, type=kind, limit_price=price, stop_price=None, time_in_force=None, reduce_only=False
        )
        core = self._core(intent.symbol)
        core.is_hedged = intent.position_side is not PositionSide.BOTH
        now_ms = self.clock.now_ms()
        order = Order(
            client_order_id=record.client_order_id,
            intent=taken,
            ordinal=0,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        events = core.submit(order, now_ms, waits=is_manual)
        if isinstance(events[0], OrderRejected):
            raise Refusal(events[0].reason)
        self._take(record, events)

    def _take(self, record: _Record, events: Sequence[AnyEvent]) -> None:
        for event in events:
            if isinstance(event, OrderFilled):
                record.filled += event.quantity
                record.value += event.quantity * event.price
                is_whole = record.filled >= record.intent.quantity
                record.status = OrderStatus.FILLED if is_whole else OrderStatus.PARTIALLY_FILLED
                self._fills.append(
                    Fill(
                        symbol=event.symbol,
                        side=event.side,
                        quantity=event.quantity,
                        price=event.price,
                        fee=event.fee,
                        fee_asset=event.fee_asset,
                        is_maker=event.is_maker,
                        ts_ms=event.ts_ms,
                        trade_id=event.trade_id,
                        order_id=record.id,
                        client_order_id=record.client_order_id,
                    )
                )
        sibling = self._records.get(record.sibling)
        if record.filled and sibling is not None and sibling.status not in DONE:
            self._end(sibling)
            self._keep(self._answer(sibling), sibling.client_order_id)

    def _end(self, record: _Record) -> None:
        self._core(record.intent.symbol).cancel(record.client_order_id, self.clock.now_ms())
        record.status = OrderStatus.CANCELED

    async def _find(self, client_order_id: str, symbol: str | None) -> OrderResult | None:
        order_id = self._ids.get(client_order_id)
        return None if order_id is None else self._answer(self._records[order_id])

    async def _poll(
        self, order_id: str | None, client_order_id: str | None, symbol: str | None
    ) -> OrderResult | None:
        record = self._records.get(order_id or self._ids.get(client_order_id or "", ""))
        return None if record is None else self._answer(record)

    def _answer_without_ids(self, order: Mapping[str, Any]) -> OrderResult | None:
        return None if self._strict else OrderResult({"status": "completed", "echo": dict(order)})

    async def _cancel(self, order_id: str, symbol: str | None) -> OrderResult:
        record = self._records.get(order_id)
        if record is None:
            raise OrderNotFound(f"no order {order_id}")
        if record.status not in DONE or (record.status is OrderStatus.FILLED and not self._strict):
            self._end(record)
        return self._answer(record)

    async def _fetch_open_orders(self, symbol: str | None) -> list[OrderResult]:
        return [
            self._answer(record)
            for record in self._records.values()
            if record.status not in DONE and (symbol is None or symbol_key(symbol) == record.intent.symbol)
        ]

    async def _fetch_fills(self, since_ms: int, symbol: str | None) -> list[Fill]:
        wanted = None if symbol is None else symbol_key(symbol)
        return [f for f in self._fills if f.ts_ms >= since_ms and wanted in {None, f.symbol}]

    async def _fetch_positions(self) -> list[Position]:
        return [msgspec.structs.replace(p) for p in self._account.positions.values() if p.quantity]

    async def _fetch_balances(self) -> list[Balance]:
        account = self._account
        used = sum((abs(p.cost) for p in account.positions.values()), ZERO)
        return [Balance(account.asset, account.wallet, account.wallet - used, used)]

    async def _post_oco(self, first: OrderLike, second: OrderLike) -> OrderPair:
        desk, ids, legs = self.desk, [], []
        for order in (first, second):
            body = self._normalise(order)
            intent = parse_intent(body)
            desk.check_risk(intent)
            ids.append(str(body.get("client_order_id") or desk.mint(order, desk.next_ordinal(order), intent)))
            legs.append({**order, "client_order_id": ids[-1]})
        if ids[0] == ids[1]:
            raise OrderValidationError("client_order_id: the legs of a pair need two")
        self._pairs[ids[1]] = ids[0]
        one = await self._place(legs[0])
        try:
            two = await self._place(legs[1])
        except BrokerageError:
            await self._recall(one.id, None)
            raise
        return one, two

    # --- answers ---------------------------------------------------------------------------------------

    def _answer(self, record: _Record) -> OrderResult:
        words = {OrderStatus.FILLED: "completed", OrderStatus.ACCEPTED: "open"}
        answer: dict[str, Any] = {
            "id": record.id,
            "client_order_id": record.client_order_id,
            "status": words.get(record.status, record.status.value),
            "echo": record.echo,
        }
        if record.status is not OrderStatus.FILLED:
            answer["filled"] = float(record.filled)
        result = OrderResult(answer, quantity=record.intent.quantity)
        result.average_price = record.value / record.filled if record.filled else None
        return result

    def _core(self, symbol: str) -> MatchingCore:
        """Return the market of a symbol, listed at its first mention: any step, one account over all."""
        core = self._cores.get(symbol)
        if core is None:
            one = Instrument(symbol, symbol, "", "", _STEP, _STEP, _STEP, _LARGEST, _LARGEST, ZERO)
            core = self._cores[symbol] = MatchingCore(
                {symbol: one},
                account=self._account,
                brackets={symbol: build_brackets([(_WALLET * _WALLET, 1, ZERO)])},
            )
        return core


def _price(intent: OrderIntent, book: MarketBook) -> Decimal:
    given = intent.limit_price or intent.stop_price
    return given or Decimal(str(1.0 if book.last is None else book.last))
