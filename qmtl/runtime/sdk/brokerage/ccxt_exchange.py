"""One ccxt exchange as the clients use it: its markets, abilities, errors, and its way to a test venue."""

import asyncio
from collections.abc import Mapping
from typing import Any

from qmtl.core.instrument import Instrument
from qmtl.engine.ports import Clock
from qmtl.runtime.sdk.brokerage.ccxt_market import (
    CONTRACT_TYPES,
    contract_size,
    find_market,
    parse_instrument,
    resolve_symbol,
)
from qmtl.runtime.sdk.brokerage.ccxt_order import Place, classify_ccxt, is_named
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import (
    BINANCE_FUTURES,
    check_paper,
    enter_test_venue,
    make_exchange,
    open_session,
    own_options,
    replace_hosts,
    settle,
)
from qmtl.runtime.sdk.brokerage.send_policy import Verdict, parse_retry_after
from qmtl.settings import is_loopback

_RECV_WINDOW_MS = 5_000
_QUESTIONS = {
    "fetch_open_orders": "fetchOpenOrders",
    "fetch_fills": "fetchMyTrades",
    "fetch_balances": "fetchBalance",
}
_HISTORIES = (
    ("fetchOrders",),
    ("fetchCanceledAndClosedOrders",),
    ("fetchClosedOrders", "fetchCanceledOrders"),
)


class CcxtExchange:
    """A ccxt exchange made of `config`; constructing it contacts nothing, its coroutines run on one loop.

    With `is_test` it stands on a proven test venue or SandboxUnavailable was raised; `base_url` replaces
    every API host, and a loopback one must turn out to be a paper exchange.
    """

    def __init__(
        self,
        exchange_id: str,
        config: Mapping[str, Any],
        base_url: str | None,
        *,
        is_test: bool,
        demo: bool,
        is_contract: bool,
    ) -> None:
        self.id = exchange_id
        self.api = make_exchange(exchange_id, config)
        options = own_options(self.api)
        # ccxt must not resend by itself: the send policy alone knows what a second order would mean.
        options |= {"maxRetriesOnFailure": 0, "warnOnFetchOpenOrdersWithoutSymbol": False}
        if is_test:
            enter_test_venue(exchange_id, self.api, base_url, demo=demo)
        elif base_url:
            replace_hosts(self.api, base_url)
        self._is_paper = base_url is not None and is_loopback(base_url)
        self.is_test = is_test or self._is_paper
        is_typed = exchange_id in BINANCE_FUTURES or options.get("defaultType") in CONTRACT_TYPES
        self.is_contract = is_contract or is_typed
        self.is_binance = exchange_id.startswith("binance")
        self.recv_window_ms = float(options.get("recvWindow") or _RECV_WINDOW_MS)
        self._loading = asyncio.Lock()
        self._is_ready = False
        self._is_clock_wrong = False

    async def load(self) -> None:
        """Load the markets once; the paper exchange must say that it is one."""
        async with self._loading:
            if self._is_ready:
                return
            if hasattr(self.api, "load_markets"):
                await self.call("load_markets")
                if self._is_paper:
                    check_paper(self.api)
            self._is_ready = True

    async def call(self, method: str, *args: Any) -> Any:
        """Call one of ccxt's methods; after a wrong nonce the clock is compared first."""
        await open_session(self.api)
        if self._is_clock_wrong and hasattr(self.api, "load_time_difference"):
            self._is_clock_wrong = False
            await settle(self.api.load_time_difference())
        return await settle(getattr(self.api, method)(*args))

    def classify(self, error: Exception, clock: Clock) -> Verdict:
        """Judge a failed call; see classify_ccxt."""
        self._is_clock_wrong = self._is_clock_wrong or is_named(error, "InvalidNonce")
        headers = getattr(self.api, "last_response_headers", None) or {}
        text = next((value for name, value in headers.items() if name.lower() == "retry-after"), None)
        status = getattr(self.api, "last_http_status", None)
        return classify_ccxt(error, status, parse_retry_after(text, clock))

    def place_of(self, symbol: str) -> tuple[Place, dict[str, Any]]:
        """Return where orders of `symbol` go and its market row, empty when markets are not known."""
        name = resolve_symbol(self.api, symbol, is_contract=self.is_contract)
        market = find_market(self.api, name)
        is_contract = bool(market.get("contract", self.is_contract))
        table = (getattr(self.api, "features", None) or {}).get("swap" if is_contract else "spot") or {}
        if is_contract:
            table = table.get("linear") or table
        place = Place(
            symbol=name,
            is_contract=is_contract,
            is_binance=self.is_binance,
            contract_size=contract_size(market),
            features=table.get("createOrder") or {},
        )
        return place, market

    def instrument(self, market: Mapping[str, Any]) -> Instrument:
        """Return the steps and limits of a market row."""
        return parse_instrument(market, mode=getattr(self.api, "precisionMode", 4))

    def has(self, ability: str) -> bool:
        """Tell whether the exchange has a unified ability such as fetchMyTrades."""
        has = getattr(self.api, "has", None)
        if isinstance(has, Mapping):
            return bool(has.get(ability))
        return callable(getattr(self.api, method_name(ability), None))

    def history(self) -> list[str]:
        """Return the abilities that together list ended orders: the first complete way there is."""
        for abilities in _HISTORIES:
            able = [one for one in abilities if self.has(one)]
            if able:
                return able
        return []

    def find_capabilities(self) -> frozenset[str]:
        """Return which optional methods of a BrokerageClient work here."""
        able = {name for name, ability in _QUESTIONS.items() if self.has(ability)}
        if self.has("fetchOpenOrders") and self.history():
            able.add("find_order")
        if self.is_contract and self.has("fetchPositions"):
            able.add("fetch_positions")
        return frozenset(able)


def method_name(ability: str) -> str:
    """Return the Python name of an entry of `exchange.has`: fetchMyTrades is fetch_my_trades."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in ability)
