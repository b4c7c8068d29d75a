"""Binance USDT-M REST answers as events, reports and bars.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures. Every parser takes the body
of an answer; PayloadError means that the venue answered something else.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.core.bar import Bar
from qmtl.core.event import BalanceReport, FundingPaid, OrderFilled, OrderReport, PositionReport, Transferred
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.order import BrokerageError, OrderStatus, OrderType, PositionSide, Side, parse_status
from qmtl.runtime.io.binance_account_messages import make_cause

_NO_LIMIT = Decimal(10**9)


class PayloadError(BrokerageError):
    """The venue's answer is not what its documentation says."""


class OrderPayload(msgspec.Struct, frozen=True):
    """A plain order as REST states it."""

    orderId: int
    clientOrderId: str
    symbol: str
    status: str
    side: Side
    origQty: Decimal = ZERO
    executedQty: Decimal = ZERO
    avgPrice: Decimal = ZERO
    type: OrderType = OrderType.LIMIT
    price: Decimal = ZERO
    stopPrice: Decimal = ZERO
    reduceOnly: bool = False
    closePosition: bool = False
    positionSide: PositionSide = PositionSide.BOTH
    updateTime: int = 0

    @property
    def report(self) -> OrderReport:
        """The same in the engine's words."""
        return OrderReport(
            self.clientOrderId,
            str(self.orderId),
            self.symbol,
            parse_status(self.status, filled=self.executedQty, quantity=self.origQty),
            self.side,
            self.origQty,
            self.executedQty,
            self.avgPrice,
            self.type,
            self.price or None,
            self.stopPrice or None,
            self.reduceOnly,
            self.closePosition,
            self.positionSide,
        )


# A triggered order lives on as its child, which has its own status.
_ALGO_STATUS = {
    "NEW": OrderStatus.ACCEPTED,
    "TRIGGERING": OrderStatus.ACCEPTED,
    "TRIGGERED": OrderStatus.ACCEPTED,
    "FINISHED": OrderStatus.ACCEPTED,
    "CANCELED": OrderStatus.CANCELED,
    "EXPIRED": OrderStatus.EXPIRED,
    "REJECTED": OrderStatus.REJECTED,
}


class AlgoPayload(msgspec.Struct, frozen=True):
    """A conditional order as REST states it; `child_id` is the order it placed, empty before the trigger."""

    algoId: int
    clientAlgoId: str
    symbol: str = ""
    algoStatus: str = "NEW"
    side: Side = Side.BUY
    quantity: Decimal | None = None
    actualOrderId: int | str | None = None
    orderType: OrderType = OrderType.STOP_MARKET
    price: Decimal | None = None
    triggerPrice: Decimal | None = None
    reduceOnly: bool = False
    closePosition: bool = False
    positionSide: PositionSide = PositionSide.BOTH
    updateTime: int | None = None

    @property
    def child_id(self) -> str:
        """Id of the order in the matching engine."""
        return str(self.actualOrderId) if self.actualOrderId not in {None, "", 0, "0"} else ""

    @property
    def report(self) -> OrderReport:
        """The same in the engine's words."""
        status = _ALGO_STATUS.get(self.algoStatus, OrderStatus.UNKNOWN)
        quantity = self.quantity or ZERO
        return OrderReport(
            self.clientAlgoId,
            str(self.algoId),
            self.symbol,
            status,
            self.side,
            quantity,
            type=self.orderType,
            limit_price=self.price or None,
            stop_price=self.triggerPrice or None,
            reduce_only=self.reduceOnly,
            close_position=self.closePosition,
            position_side=self.positionSide,
        )


class TradePayload(msgspec.Struct, frozen=True):
    """One own fill as `userTrades` states it; it names the venue's order, not ours."""

    id: int
    orderId: int
    symbol: str
    side: Side
    price: Decimal
    qty: Decimal
    time: int
    commission: Decimal = ZERO
    commissionAsset: str = ""
    maker: bool = False
    positionSide: PositionSide = PositionSide.BOTH

    def dump_fill(self, client_order_id: str) -> OrderFilled:
        """Return the fill under our id."""
        return OrderFilled(
            self.time,
            client_order_id,
            str(self.id),
            self.symbol,
            self.side,
            self.qty,
            self.price,
            self.commission,
            self.commissionAsset,
            self.maker,
            self.positionSide,
            str(self.orderId),
        )


class ErrorPayload(msgspec.Struct, frozen=True):
    """What the venue says when it refuses: its code (negative) and words."""

    code: int
    msg: str = ""


class Restrictions(msgspec.Struct, frozen=True):
    """What a key may do."""

    enableWithdrawals: bool = False
    enableFutures: bool = True
    enableReading: bool = True
    ipRestrict: bool = False


class AccountPayload(msgspec.Struct, frozen=True):
    """The account's sums in its settle currency."""

    totalWalletBalance: Decimal
    availableBalance: Decimal
    totalUnrealizedProfit: Decimal = ZERO
    totalMarginBalance: Decimal = ZERO
    totalMaintMargin: Decimal = ZERO


class _Balance(msgspec.Struct):
    asset: str
    balance: Decimal
    availableBalance: Decimal = ZERO


class _Position(msgspec.Struct):
    symbol: str
    positionAmt: Decimal
    entryPrice: Decimal = ZERO
    positionSide: PositionSide = PositionSide.BOTH


class _Income(msgspec.Struct):
    incomeType: str
    income: Decimal
    asset: str
    time: int
    symbol: str = ""


class _Filter(msgspec.Struct):
    filterType: str
    tickSize: Decimal = ZERO
    stepSize: Decimal = ZERO
    minQty: Decimal = ZERO
    maxQty: Decimal = _NO_LIMIT
    notional: Decimal = ZERO


class _Symbol(msgspec.Struct):
    symbol: str
    baseAsset: str
    quoteAsset: str
    filters: list[_Filter]
    marginAsset: str = ""
    status: str = "TRADING"
    contractType: str = "PERPETUAL"


class RateLimit(msgspec.Struct, frozen=True):
    """One limit of the venue: requests, weight or orders in `intervalNum` `interval`s."""

    rateLimitType: str
    interval: str
    intervalNum: int
    limit: int


class _ExchangeInfo(msgspec.Struct):
    symbols: list[_Symbol]
    rateLimits: list[RateLimit] = []


class ExchangeInfo(msgspec.Struct, frozen=True):
    """What can be traded, and how fast one may ask."""

    instruments: dict[str, Instrument]
    rate_limits: tuple[RateLimit, ...]

    @property
    def weight_limit(self) -> int | None:
        """Request weight allowed in a minute, None when the venue does not say."""
        for limit in self.rate_limits:
            if limit.rateLimitType == "REQUEST_WEIGHT" and limit.interval == "MINUTE":
                return limit.limit // limit.intervalNum
        return None


def _decoder(kind: Any) -> Callable[[bytes], Any]:
    decode = msgspec.json.Decoder(kind, strict=False).decode

    def parse(body: bytes) -> Any:
        try:
            return decode(body)
        except msgspec.DecodeError as error:
            raise PayloadError(f"the venue answered something else: {error}") from error

    return parse


_decode_klines = _decoder(list[tuple[int, float, float, float, float, float, int, Any, Any, Any, Any, Any]])
_decode_balances, _decode_positions = _decoder(list[_Balance]), _decoder(list[_Position])
_decode_incomes, _decode_info = _decoder(list[_Income]), _decoder(_ExchangeInfo)
parse_order: Callable[[bytes], OrderPayload] = _decoder(OrderPayload)
parse_orders: Callable[[bytes], list[OrderPayload]] = _decoder(list[OrderPayload])
parse_algo: Callable[[bytes], AlgoPayload] = _decoder(AlgoPayload)
parse_algos: Callable[[bytes], list[AlgoPayload]] = _decoder(list[AlgoPayload])
parse_trades: Callable[[bytes], list[TradePayload]] = _decoder(list[TradePayload])
parse_error: Callable[[bytes], ErrorPayload] = _decoder(ErrorPayload)
parse_account: Callable[[bytes], AccountPayload] = _decoder(AccountPayload)
parse_restrictions: Callable[[bytes], Restrictions] = _decoder(Restrictions)


class _Time(msgspec.Struct):
    serverTime: int


class _ListenKey(msgspec.Struct):
    listenKey: str


class _Leverage(msgspec.Struct):
    leverage: int


class _Dual(msgspec.Struct):
    dualSidePosition: bool


_decode_time, _decode_key = _decoder(_Time), _decoder(_ListenKey)
_decode_leverage, _decode_dual = _decoder(_Leverage), _decoder(_Dual)


def parse_time(body: bytes) -> int:
    """Return the venue's time in UTC milliseconds."""
    return int(_decode_time(body).serverTime)


def parse_listen_key(body: bytes) -> str:
    """Return the key of a user stream."""
    return str(_decode_key(body).listenKey)


def parse_leverage(body: bytes) -> int:
    """Return a leverage that was set."""
    return int(_decode_leverage(body).leverage)


def parse_hedge_mode(body: bytes) -> bool:
    """Tell whether long and short positions are kept apart."""
    return bool(_decode_dual(body).dualSidePosition)


def parse_klines(body: bytes) -> list[tuple[Bar, int]]:
    """Return (bar, close time in ms) rows of a klines answer, oldest first."""
    return [(Bar(*row[:6]), row[6]) for row in _decode_klines(body)]


def parse_balances(body: bytes) -> tuple[BalanceReport, ...]:
    """Return every wallet that holds something."""
    rows: list[_Balance] = _decode_balances(body)
    return tuple(BalanceReport(row.asset, row.balance) for row in rows if row.balance)


def parse_positions(body: bytes) -> tuple[PositionReport, ...]:
    """Return every position that is open."""
    rows: list[_Position] = _decode_positions(body)
    return tuple(
        PositionReport(row.symbol, row.positionAmt, row.entryPrice, row.positionSide)
        for row in rows
        if row.positionAmt
    )


# Income that fills already carry; the rest moves the wallet on its own.
_IN_FILLS = frozenset({"REALIZED_PNL", "COMMISSION", "INSURANCE_CLEAR"})


def parse_incomes(body: bytes) -> tuple[tuple[FundingPaid | Transferred, ...], int, int]:
    """Return funding and transfers of an income answer, how many rows it had, and the time of the last.

    The ids are those the user stream gives.
    """
    rows: list[_Income] = _decode_incomes(body)
    causes = (
        make_cause(row.incomeType, row.time, row.asset, row.income, row.symbol)
        for row in rows
        if row.incomeType not in _IN_FILLS
    )
    found = tuple(cause for cause in causes if cause is not None)
    return found, len(rows), rows[-1].time if rows else 0


def parse_exchange_info(body: bytes) -> ExchangeInfo:
    """Return the instruments being traded and the venue's limits."""
    info: _ExchangeInfo = _decode_info(body)
    found = {row.symbol: _make_instrument(row) for row in info.symbols if row.status == "TRADING"}
    return ExchangeInfo(found, tuple(info.rateLimits))


def _make_instrument(row: _Symbol) -> Instrument:
    filters = {item.filterType: item for item in row.filters}
    empty = _Filter("")
    price, lot = filters.get("PRICE_FILTER", empty), filters.get("LOT_SIZE", empty)
    market, notional = filters.get("MARKET_LOT_SIZE", lot), filters.get("MIN_NOTIONAL", empty)
    return Instrument(
        row.symbol,
        row.baseAsset,
        row.quoteAsset,
        row.marginAsset,
        price.tickSize,
        lot.stepSize,
        lot.minQty,
        lot.maxQty,
        market.maxQty,
        notional.notional,
    )
