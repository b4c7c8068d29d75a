"""HALT and FLATTEN with the keys alone, for when no trader answers."""

from collections.abc import Sequence
from decimal import Decimal

import msgspec

from qmtl.core.account import Account
from qmtl.core.event import OrderRejected, OrderUnsettled, PositionReport
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.order import BrokerageError, Order, OrderIntent, PositionSide, Role, Side
from qmtl.core.order_payload import mint_client_order_id
from qmtl.core.reason import TradingState
from qmtl.engine.risk import Refused, RiskAccount, assess
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.runtime.io.binance_orders import OrderRequest
from qmtl.runtime.io.binance_payloads import AlgoPayload, OrderPayload
from qmtl.runtime.io.binance_rest import ORDER_ABSENT, UNKNOWN_ORDER, BinanceError
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue

ROUNDS = 5
_PAUSE_S = 0.4
_GONE = ORDER_ABSENT | {UNKNOWN_ORDER}


class DirectError(BrokerageError):
    """The account is not as safe as was asked for; the message says what is left."""


class DirectReport(msgspec.Struct):
    """What was done: ids of cancelled orders, protective orders left alone, what was closed, what is held."""

    cancelled: list[str] = []
    kept: list[str] = []
    closed: list[str] = []
    positions: list[str] = []


async def halt_directly(client: BinanceFuturesClient) -> DirectReport:
    """Cancel every order that could open or raise a position; reduce-only orders and stops stay.

    Returns once the venue shows none of them. DirectError names what could not be cancelled.
    """
    report = DirectReport()
    await _cancel(client, report, keep_protection=True)
    report.positions = [_text(position) for position in await client.positions()]
    return report


async def flatten_directly(client: BinanceFuturesClient) -> DirectReport:
    """Cancel entries, close every position with MARKET reduce-only, verify zero, then cancel what is left.

    DirectError names the positions that remain.
    """
    report = DirectReport()
    await _cancel(client, report, keep_protection=True)
    instruments = (await client.exchange_info()).instruments
    venue = BinanceFuturesVenue(client, tuple(instruments))
    epoch = client.random.randbytes(8).hex()
    failed = ""
    for number in range(1, ROUNDS + 1):
        held = await client.positions()
        if not held:
            break
        for ordinal, position in enumerate(held, number * 1000):
            failed = await _close(venue, instruments, position, epoch, ordinal, report) or failed
        await client.clock.sleep(_PAUSE_S)
    left = [_text(position) for position in await client.positions()]
    report.positions = left
    if left:
        raise DirectError(f"still held after {ROUNDS} rounds: {', '.join(left)}{failed and f' ({failed})'}")
    report.kept.clear()
    await _cancel(client, report, keep_protection=False)
    return report


async def _close(
    venue: BinanceFuturesVenue,
    instruments: dict[str, Instrument],
    position: PositionReport,
    epoch: str,
    ordinal: int,
    report: DirectReport,
) -> str:
    is_hedged = position.side is not PositionSide.BOTH
    quantity = abs(position.quantity)
    instrument = instruments[position.symbol]
    intent = OrderIntent(
        symbol=position.symbol,
        side=Side.SELL if position.quantity > 0 else Side.BUY,
        quantity=min(quantity, instrument.floor_quantity(instrument.market_max_quantity)),
        reduce_only=not is_hedged,
        position_side=position.side,
        role=Role.FLATTEN,
        why="flatten --direct",
    )
    risk = RiskAccount(account=Account(), instruments=instruments, state=TradingState.HALTED)
    verdict = assess(intent, risk, RiskLimits())
    if isinstance(verdict, Refused):
        return verdict.detail
    now = venue.client.now_ms()
    key = mint_client_order_id(epoch, "", "direct", ordinal, intent)
    order = Order(client_order_id=key, intent=intent, ordinal=ordinal, created_ms=now, updated_ms=now)
    for news in await venue.submit(order):
        if isinstance(news, OrderRejected | OrderUnsettled):
            return news.reason
    report.closed.append(f"{intent.side} {intent.quantity} {intent.symbol}")
    return ""


async def _cancel(client: BinanceFuturesClient, report: DirectReport, *, keep_protection: bool) -> None:
    why = ""
    for _ in range(ROUNDS):
        orders: Sequence[OrderPayload | AlgoPayload] = [
            *await client.open_orders(),
            *await client.open_algo_orders(),
        ]
        report.kept = [_key(order) for order in orders if _is_protective(order)] if keep_protection else []
        doomed = [order for order in orders if not (keep_protection and _is_protective(order))]
        if not doomed:
            return
        for order in doomed:
            try:
                await client.delete(_request(order))
            except BinanceError as error:
                if error.code not in _GONE:
                    why = str(error)
                continue
            report.cancelled.append(_key(order))
        await client.clock.sleep(_PAUSE_S)
    left = ", ".join(_key(order) for order in doomed)
    raise DirectError(f"orders still open after {ROUNDS} rounds: {left}{why and f' ({why})'}")


def _is_protective(order: OrderPayload | AlgoPayload) -> bool:
    if order.reduceOnly or order.closePosition:
        return True
    # In hedge mode an order closes by its position side and never says reduce-only.
    closing = {(Side.SELL, PositionSide.LONG), (Side.BUY, PositionSide.SHORT)}
    return (order.side, order.positionSide) in closing


def _key(order: OrderPayload | AlgoPayload) -> str:
    return order.clientAlgoId if isinstance(order, AlgoPayload) else order.clientOrderId


def _request(order: OrderPayload | AlgoPayload) -> OrderRequest:
    if isinstance(order, AlgoPayload):
        return OrderRequest("/fapi/v1/algoOrder", "algoOrder.cancel", {"algoId": str(order.algoId)})
    params = {"symbol": order.symbol, "orderId": str(order.orderId)}
    return OrderRequest("/fapi/v1/order", "order.cancel", params)


def _text(position: PositionReport) -> str:
    quantity: Decimal = position.quantity
    return f"{quantity} {position.symbol}"
