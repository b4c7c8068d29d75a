"""The engine's Venue over any broker client that can state its whole account."""

from collections.abc import Callable, Sequence
from functools import partial

import structlog

from qmtl.core.event import (
    AccountReconciled,
    AnyEvent,
    BalanceReport,
    CancelRejected,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReport,
    OrderUnsettled,
    PositionReport,
)
from qmtl.core.fill import Fill
from qmtl.core.money import ZERO
from qmtl.core.order import (
    UNSETTLED,
    BrokerageError,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    OrderValidationError,
    PositionSide,
    Side,
    WorkingType,
)
from qmtl.engine.intents import symbol_key
from qmtl.engine.ports import Reach
from qmtl.runtime.sdk.brokerage.client import BrokerageClient, run_async
from qmtl.runtime.sdk.brokerage.execution import check_reach
from qmtl.runtime.sdk.brokerage.result import (
    CancelFailed,
    OrderNotFound,
    OrderNotSent,
    OrderResult,
    OrderUnknown,
)
from qmtl.runtime.sdk.brokerage.result import (
    OrderRejected as Refusal,
)

NEEDED = frozenset({"find_order", "fetch_open_orders", "fetch_fills", "fetch_positions", "fetch_balances"})
"""What a client must be able to do to carry an engine."""

_TYPES = {
    OrderType.MARKET: "market",
    OrderType.LIMIT: "limit",
    OrderType.STOP_MARKET: "stop",
    OrderType.STOP: "stop_limit",
}
_OVERLAP_MS = 60_000
_log = structlog.get_logger("qmtl.broker")


def dump_intent(intent: OrderIntent) -> dict[str, object]:
    """Return the broker order of an engine intent; OrderValidationError for a type brokers do not share."""
    if intent.type not in _TYPES:
        raise OrderValidationError(f"type: {intent.type} is not one a broker client sends")
    params: dict[str, object] = {}
    if intent.close_position:
        params["closePosition"] = True
    if intent.working_type is not WorkingType.CONTRACT_PRICE:
        params["workingType"] = intent.working_type.value
    order: dict[str, object | None] = {
        "symbol": intent.symbol,
        "side": intent.side.value,
        "type": _TYPES[intent.type],
        "quantity": float(intent.quantity),
        "limit_price": None if intent.limit_price is None else float(intent.limit_price),
        "stop_price": None if intent.stop_price is None else float(intent.stop_price),
        "time_in_force": None if intent.time_in_force is None else intent.time_in_force.value,
        "expire_at": None if intent.expire_ms is None else intent.expire_ms / 1000,
        "reduce_only": True if intent.reduce_only else None,
        "position_side": None if intent.position_side is PositionSide.BOTH else intent.position_side.value,
        "params": params or None,
    }
    return {name: value for name, value in order.items() if value is not None}


class BrokerageVenue:
    """engine.ports.Venue: the engine's journal owns the intents, the client only carries them.

    `symbols` are asked for missed fills; what `find_ban` answers before a sending keeps the order here.
    Raises BrokerageError naming what the client lacks.
    """

    def __init__(
        self,
        client: BrokerageClient,
        symbols: Sequence[str],
        *,
        find_ban: Callable[[Order], str] | None = None,
    ) -> None:
        lacking = sorted(NEEDED - client.capabilities)
        if lacking:
            raise BrokerageError(
                f"{type(client).__name__} cannot carry an engine: it lacks {', '.join(lacking)}"
            )
        self.client = client
        self._symbols = tuple(symbols)
        self._find_ban = find_ban

    @property
    def reach(self) -> Reach:
        """See Venue."""
        return self.client.reach

    async def submit(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue."""
        key, now_ms = order.client_order_id, self.client.clock.now_ms
        try:
            check_reach({}, self.reach)
            ban = None if self._find_ban is None else partial(self._find_ban, order)
            result = await run_async(self.client.carry(dump_intent(order.intent), key, ban))
        except OrderUnknown as error:
            return (OrderUnsettled(now_ms(), key, error.reason),)
        except OrderNotSent as error:
            _log.warning(
                "order not sent", client_order_id=key, reason=error.reason, action="none: nothing rests"
            )
            return (OrderRejected(now_ms(), key, "not_sent"),)
        except BrokerageError as error:
            reason = error.reason if isinstance(error, Refusal) else str(error)
            return (OrderRejected(now_ms(), key, reason),)
        return await self._news(order, result)

    async def cancel(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue: for an order that ended it answers what became of it."""
        key, now_ms = order.client_order_id, self.client.clock.now_ms
        try:
            result = await self.client.cancel_order_async(order.venue_order_id, order.intent.symbol)
        except OrderNotFound:
            events = await self.settle(order)
            return events if _has_end(events) else (*events, CancelRejected(now_ms(), key, "absent"))
        except (CancelFailed, ConnectionError) as error:
            return (CancelRejected(now_ms(), key, str(error)),)
        events = await self._news(order, result)
        if _has_end(events) or result.status is OrderStatus.PENDING_CANCEL:
            return events
        return (*events, CancelRejected(now_ms(), key, f"the order is {result.status}"))

    async def settle(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue: found is told in full, absence proven twice is a rejection, else nothing."""
        key = order.client_order_id
        try:
            found = await run_async(self.client.prove(key, order.intent.symbol))
        except BrokerageError as error:
            _log.warning("still unsettled", client_order_id=key, reason=str(error), action="asked again")
            return ()
        if found is None:
            return (OrderRejected(self.client.clock.now_ms(), key, "absent"),)
        return await self._news(order, found)

    async def reconcile(self, since_ms: int, orders: Sequence[Order]) -> Sequence[AnyEvent]:
        """See Venue."""
        client = self.client
        stated = await self.account()
        at_work = {report.client_order_id for report in stated.orders}
        news: list[AnyEvent] = []
        for order in orders:
            if order.client_order_id not in at_work and order.status not in UNSETTLED:
                found = await client.find_order_async(order.client_order_id, order.intent.symbol)
                if found is not None:
                    news += await self._news(order, found)
        told = {event.trade_id for event in news if isinstance(event, OrderFilled)}
        for symbol in sorted({*self._symbols, *(order.intent.symbol for order in orders)}):
            fills = await client.fetch_fills_async(since_ms, symbol)
            news += [_filled(fill, fill.client_order_id) for fill in fills if fill.trade_id not in told]
        # Stated last: a fill that came while asking is then in the statement, and told by the next reading.
        return (*news, await self.account())

    async def account(self) -> AccountReconciled:
        """See Venue."""
        client = self.client
        orders = await client.fetch_open_orders_async()
        positions = await client.fetch_positions_async()
        balances = await client.fetch_balances_async()
        return AccountReconciled(
            client.clock.now_ms(),
            tuple(_report(order) for order in orders),
            tuple(BalanceReport(one.asset, one.total) for one in balances),
            tuple(
                PositionReport(symbol_key(held.symbol), held.quantity, held.entry_price, held.side)
                for held in positions
                if held.quantity
            ),
        )

    async def aclose(self) -> None:
        """See Venue."""
        await run_async(self.client.shut())

    async def _news(self, order: Order, result: OrderResult) -> Sequence[AnyEvent]:
        """Tell everything of an answer: acceptance, fills as the venue lists them, end."""
        key, client = order.client_order_id, self.client
        ts_ms = result.venue_time_ms or client.clock.now_ms()
        if result.status is OrderStatus.REJECTED:
            return (OrderRejected(ts_ms, key, result.reason or "rejected"),)
        events: list[AnyEvent] = [OrderAccepted(ts_ms, key, result.id)]
        if result.filled:
            since_ms = max(0, order.created_ms - _OVERLAP_MS)
            fills = await client.fetch_fills_async(since_ms, order.intent.symbol)
            events += [_filled(fill, key) for fill in fills if result.id and fill.order_id == result.id]
        if result.status is OrderStatus.CANCELED:
            events.append(OrderCanceled(ts_ms, key, result.reason, result.id))
        elif result.status is OrderStatus.EXPIRED:
            events.append(OrderExpired(ts_ms, key, result.reason, result.id))
        return events


def _has_end(events: Sequence[AnyEvent]) -> bool:
    return any(isinstance(e, OrderCanceled | OrderExpired | OrderRejected | OrderFilled) for e in events)


def _filled(fill: Fill, client_order_id: str) -> OrderFilled:
    return OrderFilled(
        fill.ts_ms,
        client_order_id,
        fill.trade_id,
        symbol_key(fill.symbol),
        fill.side,
        fill.quantity,
        fill.price,
        fill.fee,
        fill.fee_asset,
        is_maker=fill.is_maker,
        venue_order_id=fill.order_id,
    )


def _report(result: OrderResult) -> OrderReport:
    side = str(result.get("side", "buy")).upper()
    return OrderReport(
        result.client_order_id,
        result.id,
        symbol_key(result.symbol),
        result.status,
        Side(side),
        result.quantity or ZERO,
        result.filled or ZERO,
        result.average_price or ZERO,
        reduce_only=result.get("reduceOnly") is True,
    )
