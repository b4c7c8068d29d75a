"""Orders of the engine at Binance USDT-M futures, one venue order per intent."""

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Protocol

import aiohttp
import msgspec
import structlog

from qmtl.core.event import (
    AccountReconciled,
    AnyEvent,
    CancelRejected,
    FundingPaid,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    OrderReport,
    OrderUnsettled,
    Transferred,
)
from qmtl.core.order import (
    DONE,
    UNSETTLED,
    BrokerageError,
    DomainViolation,
    Order,
    OrderStatus,
    OrderValidationError,
)
from qmtl.engine.live import check_reach
from qmtl.engine.ports import Reach
from qmtl.runtime.io.binance_futures import BinanceFuturesClient, cause_id
from qmtl.runtime.io.binance_order_messages import AlgoChildren
from qmtl.runtime.io.binance_orders import (
    OrderRequest,
    dump_cancel,
    dump_order,
    dump_order_key,
    is_conditional,
)
from qmtl.runtime.io.binance_payloads import AlgoPayload, OrderPayload, TradePayload
from qmtl.runtime.io.binance_rest import ORDER_ABSENT, UNKNOWN_ORDER, BinanceError, classify_binance
from qmtl.runtime.sdk.brokerage import result as broker
from qmtl.runtime.sdk.brokerage.send_policy import Outcome

Payload = OrderPayload | AlgoPayload
_SNAPSHOT_TRIES = 5
_CAUSES_KEPT = 10_000
_MARGIN_MS = 60_000
# The venue answers questions about own trades of the last six months.
_HISTORY_MS = 180 * 86_400_000
_log = structlog.get_logger("qmtl.binance")


class OrderRoad(Protocol):
    """How orders and cancels travel: the client itself, or the WebSocket order API."""

    async def post(self, request: OrderRequest) -> Payload:
        """Place an order, once."""

    async def delete(self, request: OrderRequest) -> OrderPayload | None:
        """Cancel one order."""

    async def aclose(self) -> None:
        """Close what carries them."""


class BinanceFuturesVenue:
    """engine.ports.Venue over the REST API, orders and cancels over `road` where a faster one is given.

    `symbols` are asked for missed fills beside those of the orders named. `children` is shared with the
    feed's mapper: both learn which child belongs to which conditional order. With a `domain` no order is
    signed unless the reach that was verified allows it, whatever its owner believes; `find_ban` is asked
    before every sending, resends too, and what it answers keeps the order here.
    """

    def __init__(
        self,
        client: BinanceFuturesClient,
        symbols: Sequence[str],
        *,
        children: AlgoChildren | None = None,
        road: OrderRoad | None = None,
        domain: str | None = None,
        find_ban: Callable[[Order], str] | None = None,
    ) -> None:
        self.client = client
        self._domain = domain
        self._find_ban = find_ban
        self.children = children or AlgoChildren()
        self._symbols = tuple(symbols)
        self._road: OrderRoad = road or client
        self._born_ms, self._born_real_ms = client.clock.now_ms(), client.clock.real_ms()
        self._client_ids: dict[str, str] = {}
        self._streamed: dict[str, None] = {}
        self._causes: dict[str, None] = {}

    @property
    def reach(self) -> Reach:
        """See Venue; live until the client has verified its host."""
        return self.client.reach

    # --- one order ----------------------------------------------------------------------------------

    async def submit(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue."""
        key = order.client_order_id
        if self._domain is not None:
            try:
                check_reach(self._domain, "venue", self.reach)
            except DomainViolation as error:
                _log.error(
                    "order not signed", client_order_id=key, reason=str(error), action="check base_url"
                )
                return (OrderRejected(self.client.now_ms(), key, "domain_violation"),)
        was_found = False

        async def attempt() -> Payload:
            if self._find_ban is not None and (ban := self._find_ban(order)):
                raise broker.OrderRejected(ban)
            return await self._road.post(dump_order(order))

        async def find() -> Payload | None:
            nonlocal was_found
            found = await self.client.find(dump_order_key(order))
            was_found = found is not None
            return found

        try:
            payload = await self.client.policy.send(key, attempt, find)
        except (broker.OrderRejected, OrderValidationError) as error:
            reason = error.reason if isinstance(error, broker.OrderRejected) else str(error)
            return (OrderRejected(self.client.now_ms(), key, reason),)
        except broker.OrderNotSent as error:
            _log.warning(
                "order not sent", client_order_id=key, reason=error.reason, action="none: nothing rests"
            )
            return (OrderRejected(self.client.now_ms(), key, "not_sent"),)
        except broker.OrderUnknown as error:
            _log.error(
                "order unsettled", client_order_id=key, reason=error.reason, action="settle asks again"
            )
            return (OrderUnsettled(self.client.now_ms(), key, error.reason),)
        if was_found:
            try:
                return await self._news(order, payload)
            except (BrokerageError, aiohttp.ClientError, OSError) as error:
                _log.warning(
                    "fills not read", client_order_id=key, reason=str(error), action="reconcile tells"
                )
        return self._accepted(order, payload)

    async def settle(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue: found is told in full, absence proven twice is a rejection, else nothing."""
        key, client = order.client_order_id, self.client

        async def find() -> Payload | None:
            return await client.find(dump_order_key(order))

        try:
            # An attempt of a process before this one was over when this one began.
            is_older = order.created_ms < self._born_ms
            ended_ms = self._born_real_ms if is_older else client.clock.real_ms()
            found: Payload | None = await client.policy.prove(key, find, ended_ms)
            if found is None:
                return (OrderRejected(client.now_ms(), key, "absent"),)
            return await self._news(order, found)
        except (BrokerageError, aiohttp.ClientError, OSError) as error:
            _log.warning("still unsettled", client_order_id=key, reason=str(error), action="asked again")
            return ()

    async def cancel(self, order: Order) -> Sequence[AnyEvent]:
        """See Venue: a cancel may be repeated; for an order that ended it answers what became of it."""
        key, client = order.client_order_id, self.client
        request, k = dump_cancel(order), 1
        while True:
            try:
                await self._road.delete(request)
                return (OrderCanceled(client.now_ms(), key, "", order.venue_order_id),)
            except (BinanceError, broker.OrderNotSent, aiohttp.ClientError, OSError) as error:
                if isinstance(error, BinanceError) and error.code in ORDER_ABSENT | {UNKNOWN_ORDER}:
                    return await self._cancel_late(order)
                verdict = classify_binance(error)
                if verdict.outcome is Outcome.FINAL or k > client.max_retries:
                    return (CancelRejected(client.now_ms(), key, verdict.reason),)
            await client.policy.pause(k)
            k += 1

    async def _cancel_late(self, order: Order) -> Sequence[AnyEvent]:
        """The venue has no such order at work: tell its end, or cancel the child it has become."""
        key, client = order.client_order_id, self.client
        try:
            found = await client.get(dump_order_key(order))
            if found is None:
                return (CancelRejected(client.now_ms(), key, "absent"),)
            news = await self._news(order, found)
            if isinstance(found, AlgoPayload) and found.child_id and not _has_end(news):
                params = {"symbol": order.intent.symbol, "orderId": found.child_id}
                await client.delete(OrderRequest("/fapi/v1/order", "order.cancel", params))
                return (*news, OrderCanceled(client.now_ms(), key, "", found.child_id))
            return news if _has_end(news) else (*news, CancelRejected(client.now_ms(), key, "refused"))
        except (BrokerageError, aiohttp.ClientError, OSError) as error:
            return (CancelRejected(client.now_ms(), key, f"{type(error).__name__}: {error}"),)

    def _accepted(self, order: Order, payload: Payload) -> Sequence[AnyEvent]:
        report, ts_ms = payload.report, payload.updateTime or self.client.now_ms()
        if report.status is OrderStatus.REJECTED:
            return (OrderRejected(ts_ms, order.client_order_id, "rejected"),)
        if isinstance(payload, OrderPayload):
            self._client_ids[report.venue_order_id] = order.client_order_id
        # How it ended, if it did, comes by the user stream together with its fills.
        return (OrderAccepted(ts_ms, order.client_order_id, report.venue_order_id),)

    async def _news(self, order: Order, payload: Payload) -> Sequence[AnyEvent]:
        """Tell everything about an order found by asking: acceptance, fills, end."""
        key, ts_ms = order.client_order_id, payload.updateTime or self.client.now_ms()
        report = payload.report
        if report.status is OrderStatus.REJECTED:
            return (OrderRejected(ts_ms, key, "rejected"),)
        events: list[AnyEvent] = [OrderAccepted(ts_ms, key, report.venue_order_id)]
        if isinstance(payload, AlgoPayload):
            if not payload.child_id:
                return (*events, *_ending(key, report, ts_ms))
            self.children.remember(payload.child_id, key)
            params = {"symbol": order.intent.symbol, "orderId": payload.child_id}
            child = await self.client.get(OrderRequest("/fapi/v1/order", "order.status", params))
            if not isinstance(child, OrderPayload):
                # The venue forgets orders in time; that the Algo service is finished with it remains.
                is_over = payload.algoStatus == "FINISHED"
                return (
                    (*events, OrderCanceled(ts_ms, key, "finished", payload.child_id)) if is_over else events
                )
            report, ts_ms = child.report, child.updateTime or ts_ms
        self._client_ids[report.venue_order_id] = key
        if report.filled:
            trades = await self.client.order_trades(order.intent.symbol, report.venue_order_id)
            events.extend(trade.dump_fill(key) for trade in trades)
        return (*events, *_ending(key, report, ts_ms))

    # --- the whole account --------------------------------------------------------------------------

    async def account(self) -> AccountReconciled:
        """See Venue."""
        client = self.client
        plain = [order.report for order in await client.open_orders()]
        algos = [order.report for order in await client.open_algo_orders()]
        # A triggered child stands among the plain orders under the id of its conditional order or its own.
        reports = (
            msgspec.structs.replace(
                r, client_order_id=self.children.resolve(r.venue_order_id, r.client_order_id)
            )
            for r in chain(plain, algos)
        )
        balances, positions = await client.balances(), await client.positions()
        return AccountReconciled(client.now_ms(), tuple(reports), balances, positions)

    def note_streamed(self, event: OrderFilled | FundingPaid | Transferred) -> bool:
        """Take note of what the user stream told; False when it was told before."""
        if isinstance(event, OrderFilled):
            self._streamed[f"{event.symbol}:{event.trade_id}"] = None
            return True
        return self._is_new(event)

    async def reconcile(self, since_ms: int, orders: Sequence[Order]) -> Sequence[AnyEvent]:
        """See Venue: fills, then ends of `orders`, then funding and transfers, then the account.

        Everything is read between two readings of fills and taken when they agree: a fill between the
        account's statement and what is told before it would look like drift. VenueUnavailable when the
        account does not stand still.
        """
        since_ms = self._first_ms(since_ms, orders)
        for order in orders:
            if order.venue_order_id and not is_conditional(order):
                self._client_ids[order.venue_order_id] = order.client_order_id
        symbols = sorted({*self._symbols, *(order.intent.symbol for order in orders)})
        for _ in range(_SNAPSHOT_TRIES):
            self._streamed.clear()
            trades = {symbol: await self.client.user_trades(symbol, since_ms) for symbol in symbols}
            stated = await self.account()
            incomes = await self.client.incomes(since_ms)
            at_work = {report.client_order_id for report in stated.orders}
            news: list[AnyEvent] = []
            for order in orders:
                if order.client_order_id not in at_work:
                    news.extend(await self._look_for(order))
            told = {event.trade_id for event in news if isinstance(event, OrderFilled)}
            fills = [
                trade.dump_fill(await self._owner(trade))
                for trade in sorted(chain(*trades.values()), key=lambda trade: (trade.time, trade.id))
                if str(trade.id) not in told
            ]
            if await self._is_still(trades, since_ms):
                causes = [cause for cause in incomes if self._is_new(cause)]
                return (*fills, *news, *causes, stated)
        raise broker.VenueUnavailable("the account changed during every one of five readings")

    def _first_ms(self, since_ms: int, orders: Sequence[Order]) -> int:
        """An account that never traded here asks from its oldest open order on, not through all history."""
        now_ms = self.client.now_ms()
        if since_ms <= 0:
            since_ms = min((order.created_ms for order in orders), default=now_ms) - _MARGIN_MS
        return max(since_ms, now_ms - _HISTORY_MS)

    async def _is_still(self, trades: dict[str, list[TradePayload]], since_ms: int) -> bool:
        """Tell whether no fill came since `trades` were read, neither here nor by the stream."""
        for symbol, known in trades.items():
            later = (
                await self.client.trades_after(symbol, known[-1].id)
                if known
                else await self.client.user_trades(symbol, since_ms)
            )
            if later:
                return False
        read = {f"{symbol}:{trade.id}" for symbol, known in trades.items() for trade in known}
        return all(key in read for key in self._streamed)

    async def _look_for(self, order: Order) -> Sequence[AnyEvent]:
        found = await self.client.get(dump_order_key(order))
        if found is not None:
            return await self._news(order, found)
        if order.status in UNSETTLED or order.status in DONE:
            # Absence once proves nothing about an order on its way; `settle` asks twice.
            return ()
        return (OrderCanceled(self.client.now_ms(), order.client_order_id, "absent", order.venue_order_id),)

    async def _owner(self, trade: TradePayload) -> str:
        order_id = str(trade.orderId)
        known = self._client_ids.get(order_id) or self.children.resolve(order_id, "")
        if known:
            return known
        params = {"symbol": trade.symbol, "orderId": order_id}
        found = await self.client.get(OrderRequest("/fapi/v1/order", "order.status", params))
        owner = found.clientOrderId if isinstance(found, OrderPayload) else ""
        self._client_ids[order_id] = owner
        return owner

    def _is_new(self, cause: FundingPaid | Transferred) -> bool:
        key = cause_id(cause)
        if key in self._causes:
            return False
        self._causes[key] = None
        if len(self._causes) > _CAUSES_KEPT:
            del self._causes[next(iter(self._causes))]
        return True

    async def aclose(self) -> None:
        """See Venue."""
        await self._road.aclose()
        await self.client.aclose()


def _has_end(news: Sequence[AnyEvent]) -> bool:
    ends = (OrderCanceled, OrderExpired, OrderRejected, OrderFilled)
    return bool(news) and isinstance(news[-1], ends)


def _ending(key: str, report: OrderReport, ts_ms: int) -> Sequence[AnyEvent]:
    if report.status is OrderStatus.CANCELED:
        return (OrderCanceled(ts_ms, key, "", report.venue_order_id),)
    if report.status is OrderStatus.EXPIRED:
        return (OrderExpired(ts_ms, key, "", report.venue_order_id),)
    return ()
