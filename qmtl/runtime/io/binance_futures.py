"""The Binance USDT-M futures account as a typed client: everything a trader asks the venue."""

from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address

import aiohttp

from qmtl.core.bar import Bar
from qmtl.core.event import BalanceReport, FundingPaid, PositionReport, Transferred
from qmtl.core.interval import parse_interval
from qmtl.engine.ports import Clock, Random, Reach
from qmtl.runtime.io.binance_orders import OrderRequest
from qmtl.runtime.io.binance_payloads import (
    AccountPayload,
    AlgoPayload,
    ExchangeInfo,
    OrderPayload,
    Restrictions,
    TradePayload,
    parse_account,
    parse_algo,
    parse_algos,
    parse_balances,
    parse_exchange_info,
    parse_hedge_mode,
    parse_incomes,
    parse_klines,
    parse_leverage,
    parse_listen_key,
    parse_order,
    parse_orders,
    parse_positions,
    parse_restrictions,
    parse_trades,
)
from qmtl.runtime.io.binance_rest import ORDER_ABSENT, RECV_WINDOW_MS, BinanceError, BinanceRest
from qmtl.runtime.sdk.brokerage.result import VenueConfigurationError, VenueUnavailable

PRODUCTION_URL = "https://fapi.binance.com"
TEST_HOSTS = frozenset({"testnet.binancefuture.com", "demo-fapi.binance.com"})
"""Hosts that trade no real money, by name."""

_PAPER_HEADER = "x-qmtl-paper"
_KLINES_PAGE = 1500
_TRADES_PAGE = 1000
_INCOME_PAGE = 1000
_WEEK_MS = 7 * 86_400_000
# "No need to change": the account already is as asked.
_ALREADY_SO = frozenset({-4046, -4059, -4171})


def is_loopback(host: str | None) -> bool:
    """Tell whether `host` is this machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


class BinanceFuturesClient(BinanceRest):
    """Typed calls to the USDT-M REST API. Constructing connects nowhere.

    Numbers of money come as Decimal, of bars as float, times in UTC milliseconds. `reach` is live until
    `verify_reach` proves a test venue.
    """

    def __init__(
        self,
        api_key: str = "",
        secret: str = "",
        base_url: str = PRODUCTION_URL,
        *,
        clock: Clock,
        random: Random,
        recv_window_ms: int = RECV_WINDOW_MS,
        timeout_s: float = 5.0,
        max_retries: int = 3,
    ) -> None:
        super().__init__(
            api_key,
            secret,
            base_url,
            clock=clock,
            random=random,
            recv_window_ms=recv_window_ms,
            timeout_s=timeout_s,
            max_retries=max_retries,
        )
        self.reach: Reach = "live"

    async def verify_reach(self) -> Reach:
        """Return `sandbox` for a named test host or a paper exchange on this machine, else `live`."""
        host = self.base_url.host
        if host in TEST_HOSTS:
            self.reach = "sandbox"
        elif is_loopback(host):
            try:
                url = self.base_url / "fapi/v1/ping"
                async with self.session.get(url, allow_redirects=False) as answer:
                    self.reach = "sandbox" if _PAPER_HEADER in answer.headers else "live"
            except (aiohttp.ClientError, OSError) as error:
                raise VenueUnavailable(f"{self.base_url}: {error}") from error
        return self.reach

    # --- market -------------------------------------------------------------------------------------

    async def exchange_info(self) -> ExchangeInfo:
        """Return the instruments being traded, and take over the venue's weight limit."""
        info = parse_exchange_info(await self.ask("GET", "/fapi/v1/exchangeInfo", security="none"))
        self.weight_limit = info.weight_limit or self.weight_limit
        return info

    async def klines(
        self,
        symbol: str,
        interval: str,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = 0,
    ) -> list[Bar]:
        """Return closed candles of [start_ms, end_ms) by open time, oldest first.

        Without `start_ms` the last `limit` (500) before `end_ms` or now. Pages of 1,500 are joined.
        """
        step_ms = parse_interval(interval)
        now_ms = self.now_ms()
        stop_ms = now_ms if end_ms is None else min(end_ms, now_ms)
        count = limit or 500
        if start_ms is None:
            start_ms = (stop_ms // step_ms - count) * step_ms
        bars: list[Bar] = []
        cursor_ms = start_ms
        while cursor_ms < stop_ms and not 0 < limit <= len(bars):
            size = min(_KLINES_PAGE, max(1, (stop_ms - cursor_ms) // step_ms + 1))
            params = {
                "symbol": symbol,
                "interval": interval,
                "startTime": str(cursor_ms),
                "endTime": str(stop_ms - 1),
                "limit": str(size),
            }
            weight = 1 if size < 100 else 2 if size < 500 else 5 if size <= 1000 else 10
            rows = parse_klines(
                await self.ask("GET", "/fapi/v1/klines", params, security="none", weight=weight)
            )
            bars.extend(
                bar for bar, close_ms in rows if close_ms < self.now_ms() and bar.open_ms >= cursor_ms
            )
            if len(rows) < size:
                break
            cursor_ms = rows[-1][0].open_ms + step_ms
        return bars[:limit] if limit else bars

    # --- account ------------------------------------------------------------------------------------

    async def account(self) -> AccountPayload:
        """Return the account's sums in its settle currency."""
        return parse_account(await self.ask("GET", "/fapi/v3/account", weight=5))

    async def balances(self) -> tuple[BalanceReport, ...]:
        """Return every wallet that holds something."""
        return parse_balances(await self.ask("GET", "/fapi/v3/balance", weight=5))

    async def positions(self) -> tuple[PositionReport, ...]:
        """Return every open position."""
        return parse_positions(await self.ask("GET", "/fapi/v3/positionRisk", weight=5))

    async def restrictions(self) -> Restrictions:
        """Return what this key may do."""
        return parse_restrictions(await self.ask("GET", "/sapi/v1/account/apiRestrictions"))

    async def incomes(self, start_ms: int) -> tuple[FundingPaid | Transferred, ...]:
        """Return funding and transfers since `start_ms`, oldest first."""
        found: list[FundingPaid | Transferred] = []
        while True:
            params = {"startTime": str(start_ms), "limit": str(_INCOME_PAGE)}
            page, size, last_ms = parse_incomes(await self.ask("GET", "/fapi/v1/income", params, weight=30))
            found.extend(page)
            if size < _INCOME_PAGE or last_ms <= start_ms:
                return tuple({cause_id(cause): cause for cause in found}.values())
            start_ms = last_ms

    async def user_trades(self, symbol: str, start_ms: int) -> list[TradePayload]:
        """Return own fills of `symbol` since `start_ms`, oldest first."""
        # One question spans at most seven days; what follows its answer is asked by trade id.
        page: list[TradePayload] = []
        while not page and start_ms <= self.now_ms():
            end_ms = start_ms + _WEEK_MS - 1
            span = {"symbol": symbol, "startTime": str(start_ms), "endTime": str(end_ms)}
            page = await self._trades({**span, "limit": str(_TRADES_PAGE)})
            start_ms += _WEEK_MS
        trades = list(page)
        while len(page) == _TRADES_PAGE or (page and start_ms <= self.now_ms()):
            page = await self.trades_after(symbol, trades[-1].id)
            trades += page
        return trades

    async def _trades(self, params: Mapping[str, str]) -> list[TradePayload]:
        return parse_trades(await self.ask("GET", "/fapi/v1/userTrades", params, weight=5))

    async def trades_after(self, symbol: str, trade_id: int) -> list[TradePayload]:
        """Return own fills of `symbol` with an id above `trade_id`."""
        params = {"symbol": symbol, "fromId": str(trade_id + 1), "limit": str(_TRADES_PAGE)}
        return await self._trades(params)

    async def order_trades(self, symbol: str, order_id: str) -> list[TradePayload]:
        """Return the fills of one order."""
        return await self._trades({"symbol": symbol, "orderId": order_id, "limit": str(_TRADES_PAGE)})

    # --- orders -------------------------------------------------------------------------------------

    async def post(self, request: OrderRequest) -> OrderPayload | AlgoPayload:
        """Place an order, once."""
        body = await self.call("POST", request.path, request.params, is_urgent=True)
        return parse_algo(body) if request.is_algo else parse_order(body)

    async def find(self, request: OrderRequest) -> OrderPayload | AlgoPayload | None:
        """Ask once for one order; None when the venue says that it has none."""
        return await self._order(request, self.call)

    async def get(self, request: OrderRequest) -> OrderPayload | AlgoPayload | None:
        """Ask for one order until there is an answer; None when the venue says that it has none."""
        return await self._order(request, self.ask)

    async def _order(
        self, request: OrderRequest, call: Callable[..., Awaitable[bytes]]
    ) -> OrderPayload | AlgoPayload | None:
        try:
            body = await call("GET", request.path, request.params, is_urgent=True)
        except BinanceError as error:
            if error.code in ORDER_ABSENT:
                return None
            raise
        return parse_algo(body) if request.is_algo else parse_order(body)

    async def delete(self, request: OrderRequest) -> OrderPayload | None:
        """Cancel one order; the Algo endpoint answers without an order."""
        body = await self.call("DELETE", request.path, request.params, is_urgent=True)
        return None if request.is_algo else parse_order(body)

    async def open_orders(self, symbol: str | None = None) -> list[OrderPayload]:
        """Return plain orders at work."""
        params = {"symbol": symbol} if symbol else {}
        body = await self.ask("GET", "/fapi/v1/openOrders", params, weight=1 if symbol else 40)
        return parse_orders(body)

    async def open_algo_orders(self, symbol: str | None = None) -> list[AlgoPayload]:
        """Return conditional orders waiting for their trigger."""
        params = {"symbol": symbol} if symbol else {}
        body = await self.ask("GET", "/fapi/v1/openAlgoOrders", params, weight=1 if symbol else 40)
        return parse_algos(body)

    async def cancel_all(self, symbol: str) -> None:
        """Cancel every plain order of `symbol`; conditional orders stay."""
        await self.ask("DELETE", "/fapi/v1/allOpenOrders", {"symbol": symbol}, is_urgent=True)

    async def countdown_cancel_all(self, symbol: str, countdown_ms: int) -> None:
        """Have the venue cancel all orders of `symbol` unless asked again in `countdown_ms`; 0 disarms."""
        params = {"symbol": symbol, "countdownTime": str(countdown_ms)}
        await self.ask("POST", "/fapi/v1/countdownCancelAll", params, weight=10, is_urgent=True)

    # --- settings -----------------------------------------------------------------------------------

    async def set_leverage(self, symbol: str, leverage: int) -> int:
        """Set and return the leverage of `symbol`."""
        params = {"symbol": symbol, "leverage": str(leverage)}
        body = await self._configure("/fapi/v1/leverage", params, "leverage")
        return parse_leverage(body) if body else leverage

    async def set_margin_mode(self, symbol: str, mode: str) -> None:
        """Set the margin mode of `symbol`: isolated or cross."""
        margin = "ISOLATED" if mode.lower() == "isolated" else "CROSSED"
        await self._configure("/fapi/v1/marginType", {"symbol": symbol, "marginType": margin}, "margin mode")

    async def is_hedge_mode(self) -> bool:
        """Tell whether long and short positions are kept apart."""
        body = await self.ask("GET", "/fapi/v1/positionSide/dual", weight=30)
        return parse_hedge_mode(body)

    async def set_hedge_mode(self, *, is_on: bool) -> None:
        """Choose hedge or one-way mode for the whole account."""
        params = {"dualSidePosition": "true" if is_on else "false"}
        await self._configure("/fapi/v1/positionSide/dual", params, "position mode")

    async def _configure(self, path: str, params: Mapping[str, str], what: str) -> bytes:
        try:
            return await self.ask("POST", path, params, is_urgent=True)
        except BinanceError as error:
            if error.code in _ALREADY_SO:
                return b""
            raise VenueConfigurationError(f"{what}: the venue refused it: {error}") from error

    # --- user stream --------------------------------------------------------------------------------

    async def new_listen_key(self) -> str:
        """Open the user stream, or prolong the one that is open, and return its key."""
        body = await self.ask("POST", "/fapi/v1/listenKey", security="key", is_urgent=True)
        return parse_listen_key(body)

    async def renew_listen_key(self) -> None:
        """Prolong the user stream by an hour; BinanceError -1125 when its key is gone."""
        await self.ask("PUT", "/fapi/v1/listenKey", security="key", is_urgent=True)

    async def close_listen_key(self) -> None:
        """End the user stream."""
        await self.ask("DELETE", "/fapi/v1/listenKey", security="key", is_urgent=True)


def cause_id(cause: FundingPaid | Transferred) -> str:
    """Return the id under which a wallet movement is booked once."""
    return cause.funding_id if isinstance(cause, FundingPaid) else cause.transfer_id
