"""Orders to any exchange ccxt knows, by its unified API."""

from collections.abc import Awaitable, Callable, Mapping
from decimal import Decimal
from typing import Any

import msgspec

from qmtl.config import reveal
from qmtl.core.account import Balance
from qmtl.core.fill import Fill
from qmtl.core.instrument import Instrument
from qmtl.core.interval import DAY_MS
from qmtl.core.order import OrderType, OrderValidationError
from qmtl.core.position import Position
from qmtl.engine.ports import Clock, Random, Reach
from qmtl.engine.risk import find_fault, is_strictly_reducing
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.ccxt_exchange import CcxtExchange, method_name
from qmtl.runtime.sdk.brokerage.ccxt_market import (
    contract_size,
    find_market,
)
from qmtl.runtime.sdk.brokerage.ccxt_order import (
    Place,
    dump_call,
    leave_out_none,
    parse_answer,
    parse_balances,
    parse_fill,
    parse_position,
    read_amount,
)
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import ccxt_errors
from qmtl.runtime.sdk.brokerage.client import BrokerageClient
from qmtl.runtime.sdk.brokerage.intent_desk import parse_intent
from qmtl.runtime.sdk.brokerage.order_road import JournalSource
from qmtl.runtime.sdk.brokerage.result import (
    CancelFailed,
    OrderNotFound,
    OrderNotSent,
    OrderRejected,
    OrderResult,
    VenueUnavailable,
)
from qmtl.runtime.sdk.brokerage.send_policy import Verdict

_TRADES_WINDOW_MS = 7 * DAY_MS
_TRADES_KEPT_MS = 90 * DAY_MS
_IDS_KEPT = 10_000
_ALGO = {"trigger": True}
_CONDITIONAL = frozenset(OrderType) - {OrderType.MARKET, OrderType.LIMIT}


class CcxtBrokerageClient(BrokerageClient):
    """One account at a ccxt exchange; spot unless `options` say otherwise.

    `apiKey` or `api_key`, and `secret`, default to `connectors.ccxt_apikey`, `ccxt_secret`. Any of
    `sandbox`, `testnet`, `demo` moves it to a proven test venue or raises SandboxUnavailable. `base_url`
    stands for `connectors.ccxt_base_url`. Further arguments go to ccxt. Raises ValueError for an unknown
    exchange and RuntimeError without ccxt.
    """

    is_contract = False

    def __init__(
        self,
        exchange: str,
        *,
        apiKey: str | None = None,  # noqa: N803 - ccxt's own spelling, published
        api_key: str | None = None,
        secret: str | None = None,
        options: Mapping[str, Any] | None = None,
        sandbox: bool = False,
        testnet: bool = False,
        demo: bool = False,
        enableRateLimit: bool = True,  # noqa: N803 - as apiKey
        journal: JournalSource = None,
        base_url: str | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        **ccxt: Any,
    ) -> None:
        connectors = runtime.settings().connectors
        given = apiKey or api_key or (connectors.ccxt_apikey and reveal(connectors.ccxt_apikey)) or ""
        key_secret = secret or (connectors.ccxt_secret and reveal(connectors.ccxt_secret)) or ""
        config = {**ccxt, "enableRateLimit": enableRateLimit, "options": dict(options or {})}
        config |= {name: value for name, value in (("apiKey", given), ("secret", key_secret)) if value}
        is_test, base_url = sandbox or testnet or demo, base_url or connectors.ccxt_base_url
        self.venue = CcxtExchange(
            exchange, config, base_url, is_test=is_test, demo=demo, is_contract=self.is_contract
        )
        super().__init__(
            venue=exchange,
            base_url=base_url or ("sandbox" if is_test else ""),
            key=given,
            journal=journal,
            max_retries=connectors.trade_max_retries,
            backoff=connectors.trade_backoff,
            absence_window_s=self.venue.recv_window_ms / 1000 + 1,
            classify=self._classify,
            clock=clock,
            random=random,
        )
        if clock is not None:
            self.venue.api.milliseconds = clock.now_ms
        self._ids: dict[str, str] = {}
        self.capabilities = self.venue.find_capabilities()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.venue.id!r}, reach={self.reach!r})"

    @property
    def is_spot(self) -> bool:
        """See OrderRoad."""
        return not self.venue.is_contract

    @property
    def reach(self) -> Reach:
        """`sandbox` where the test venue is proven or a loopback paper exchange, else `live`."""
        return "sandbox" if self.venue.is_test else "live"

    @property
    def exchange(self) -> Any:
        """The ccxt exchange itself; its coroutines belong on the background loop."""
        return self.venue.api

    def _classify(self, error: Exception) -> Verdict:
        return self.venue.classify(error, self.clock)

    def check_oco_leg(self, order: Mapping[str, Any]) -> None:
        """A pair of contracts may only close: a sibling that fills late must not open a position."""
        if self.venue.is_contract and not is_strictly_reducing(parse_intent(self._normalise(order))):
            raise OrderValidationError("oco: legs on futures must be closing (reduce_only)")

    # --- sending ---------------------------------------------------------------------------------------

    async def _prepare(self, order: dict[str, Any]) -> None:
        """Load markets and keep what the venue would refuse at home."""
        try:
            await self.policy.ask(self.venue.load)
        except VenueUnavailable as error:
            raise OrderNotSent(f"markets could not be loaded: {error}") from error
        except ccxt_errors() as error:
            raise OrderRejected(f"{type(error).__name__}: {error}") from error
        place, market = self.venue.place_of(order["symbol"])
        intent = parse_intent(order)
        if market:
            fault = find_fault(intent, self.venue.instrument(market), reducing=is_strictly_reducing(intent))
            if fault is not None:
                raise OrderValidationError(f"{order['symbol']}: {fault.detail}")
        dump_call(order, place)

    async def _send(self, order: dict[str, Any], client_order_id: str) -> OrderResult:
        await self.venue.load()
        place, _ = self.venue.place_of(order["symbol"])
        answer = await self.venue.call("create_order", *dump_call(order, place))
        result = parse_answer(
            answer, client_order_id=client_order_id, quantity=order["quantity"], size=place.contract_size
        )
        return self._remember(result)

    def _remember(self, result: OrderResult) -> OrderResult:
        self._ids[result.id] = result.client_order_id
        if len(self._ids) > _IDS_KEPT:
            del self._ids[next(iter(self._ids))]
        return result

    # --- questions about one order ----------------------------------------------------------------------

    async def _find(self, client_order_id: str, symbol: str | None) -> OrderResult | None:
        """Look through open, then ended orders; conditional ones have tables of their own."""
        symbol = symbol or self.desk.symbol_of(None, client_order_id)
        if symbol is None:
            raise OrderValidationError(f"symbol: is needed to find {client_order_id}")
        return await self._scan(
            symbol, lambda row: row.get("clientOrderId") == client_order_id, client_order_id
        )

    async def _scan(
        self, symbol: str, is_it: Callable[[Mapping[str, Any]], bool], client_order_id: str
    ) -> OrderResult | None:
        await self.venue.load()
        place, _ = self.venue.place_of(symbol)
        known = self._is_algo(None, client_order_id) if place.is_binance_contract else False
        tables: list[dict[str, Any]] = [{}] if known is False else [_ALGO] if known else [{}, _ALGO]
        methods = ["fetch_open_orders", *(method_name(name) for name in self.venue.history())]
        for params in tables:
            for method in methods:
                extra = (None, None, params) if params else ()
                rows = await self.venue.call(method, place.symbol, *extra)
                row = next((row for row in rows if is_it(row)), None)
                if row is not None:
                    return self._remember(
                        parse_answer(row, client_order_id=client_order_id, size=place.contract_size)
                    )
        return None

    async def _poll(
        self, order_id: str | None, client_order_id: str | None, symbol: str | None
    ) -> OrderResult | None:
        def ask() -> Awaitable[OrderResult | None]:
            if order_id is None:
                return self._find(str(client_order_id), symbol)
            return self._ask_by_id(order_id, client_order_id or "", symbol)

        try:
            return await self.policy.ask(ask)
        except ccxt_errors() as error:
            raise VenueUnavailable(f"{type(error).__name__}: {error}") from error

    async def _ask_by_id(self, order_id: str, client_order_id: str, symbol: str | None) -> OrderResult | None:
        if symbol is None:
            return None
        if not self.venue.has("fetchOrder"):
            return await self._scan(symbol, lambda row: str(row.get("id")) == order_id, client_order_id)
        await self.venue.load()
        place, _ = self.venue.place_of(symbol)
        for params in self._params_of(order_id, place):
            try:
                answer = await self.venue.call("fetch_order", order_id, place.symbol, *params)
            except ccxt_errors("OrderNotFound"):
                continue
            return parse_answer(answer, client_order_id=client_order_id, size=place.contract_size)
        return None

    async def _cancel(self, order_id: str, symbol: str | None) -> OrderResult:
        if symbol is None:
            raise OrderNotFound(f"order {order_id}: its symbol is unknown here")

        async def ask() -> OrderResult | None:
            await self.venue.load()
            place, _ = self.venue.place_of(symbol)
            for params in self._params_of(order_id, place):
                try:
                    answer = await self.venue.call("cancel_order", order_id, place.symbol, *params)
                except ccxt_errors("OrderNotFound"):
                    continue
                told = {"id": order_id, **leave_out_none(answer)}
                if "status" in told:
                    return parse_answer(told, size=place.contract_size)
                # Conditional orders and terse venues answer without saying where the order stands now.
                found = await self._ask_by_id(order_id, "", symbol)
                return found or parse_answer({**told, "status": "canceled"}, size=place.contract_size)
            return await self._ask_by_id(order_id, "", symbol)

        try:
            result = await self.policy.ask(ask)
        except ccxt_errors() as error:
            raise CancelFailed(f"order {order_id}: {type(error).__name__}: {error}") from error
        if result is None:
            raise OrderNotFound(f"order {order_id} is unknown to {self.venue.id}")
        return result

    def _params_of(self, order_id: str, place: Place) -> list[tuple[dict[str, Any], ...]]:
        """Return the extra arguments to try: Binance's conditional contracts live in the algo service."""
        is_algo = self._is_algo(order_id, None) if place.is_binance_contract else False
        if is_algo is None:
            return [(), (_ALGO,)]
        return [(_ALGO,)] if is_algo else [()]

    def _is_algo(self, order_id: str | None, client_order_id: str | None) -> bool | None:
        key = client_order_id if order_id is None else self._own_id(order_id)
        entry = None if not key else self.desk.journal.find(key)
        return None if entry is None else entry.order.intent.type in _CONDITIONAL

    # --- lists ------------------------------------------------------------------------------------------

    async def _fetch_open_orders(self, symbol: str | None) -> list[OrderResult]:
        await self.venue.load()
        name = None if symbol is None else self.venue.place_of(symbol)[0].symbol
        tables: list[tuple[Any, ...]] = [()]
        if self.venue.is_binance and self.venue.is_contract:
            tables.append((None, None, _ALGO))
        return [
            self._remember(
                parse_answer(row, size=contract_size(find_market(self.venue.api, str(row.get("symbol")))))
            )
            for extra in tables
            for row in await self._listed("fetch_open_orders", name, *extra)
        ]

    async def _fetch_fills(self, since_ms: int, symbol: str | None) -> list[Fill]:
        await self.venue.load()
        desk = self.desk
        entries = desk.journal.intents.entries.values()
        traded = {entry.order.intent.symbol for entry in entries if entry.account == desk.account}
        symbols = sorted(traded) if symbol is None else [symbol]
        fills: list[Fill] = []
        for one in symbols:
            place, _ = self.venue.place_of(one)
            for start_ms in self._windows(since_ms, place):
                rows = await self._listed("fetch_my_trades", place.symbol, start_ms)
                fills += [parse_fill(row, place.contract_size) for row in rows]
        # A trade on the edge of two windows comes twice.
        unique = {(fill.symbol, fill.trade_id): self._own(fill) for fill in fills}
        return sorted(unique.values(), key=lambda fill: fill.ts_ms)

    def _own(self, fill: Fill) -> Fill:
        return msgspec.structs.replace(fill, client_order_id=self._own_id(fill.order_id))

    def _own_id(self, order_id: str) -> str:
        """Return our id of an order by the venue's: an engine's intents are not in a journal of ours."""
        desk = self.desk
        known = desk.journal.intents.by_venue_id
        return known.get((desk.account, order_id)) or self._ids.get(order_id, "")

    def _windows(self, since_ms: int, place: Place) -> list[int | None]:
        """Return where to start each question for trades: Binance answers a week of contracts at a time."""
        if not place.is_binance_contract:
            return [since_ms or None]
        now_ms = self.clock.now_ms()
        return list(range(max(since_ms, now_ms - _TRADES_KEPT_MS), now_ms + 1, _TRADES_WINDOW_MS))

    async def _fetch_positions(self) -> list[Position]:
        await self.venue.load()
        rows = await self._listed("fetch_positions")
        held = (parse_position(row, find_market(self.venue.api, row["symbol"])) for row in rows)
        return [position for position in held if position.quantity]

    async def _fetch_balances(self) -> list[Balance]:
        await self.venue.load()
        return parse_balances(await self._listed("fetch_balance"))

    async def ask_market(self, symbol: str) -> tuple[Instrument, Decimal]:
        """Return a market's steps and its last price; runs on the background loop."""
        await self.venue.load()
        place, market = self.venue.place_of(symbol)
        ticker = await self._listed("fetch_ticker", place.symbol)
        return self.venue.instrument(market), read_amount(ticker.get("last"))

    async def _listed(self, method: str, *args: Any) -> Any:
        try:
            return await self.venue.call(method, *args)
        except ccxt_errors("ExchangeError") as error:
            raise VenueUnavailable(f"{type(error).__name__}: {error}") from error
