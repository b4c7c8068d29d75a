"""Linear contracts through ccxt: leverage, margin mode and position mode are set before the first order."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from qmtl.core.order import OrderValidationError
from qmtl.core.order_payload import to_broker_order
from qmtl.runtime.sdk.brokerage.ccxt_client import CcxtBrokerageClient
from qmtl.runtime.sdk.brokerage.ccxt_exchange import method_name
from qmtl.runtime.sdk.brokerage.ccxt_order import is_already_so
from qmtl.runtime.sdk.brokerage.ccxt_sandbox import ccxt_errors
from qmtl.runtime.sdk.brokerage.order_road import JournalSource
from qmtl.runtime.sdk.brokerage.result import VenueConfigurationError, VenueUnavailable
from qmtl.runtime.sdk.brokerage.send_policy import SendPolicy

_MARGIN_MODES = frozenset({"cross", "isolated"})
_CROSS = {"cross": "cross", "crossed": "cross", "isolated": "isolated"}
_SIDES = frozenset({"LONG", "SHORT"})


class FuturesCcxtBrokerageClient(CcxtBrokerageClient):
    """One futures account at a ccxt exchange; see CcxtBrokerageClient.

    `symbol` is what orders without one mean. `leverage`, `margin_mode` (cross, isolated; None leaves the
    venue's) and `hedge_mode` (None likewise) are applied and read back before a symbol's first order; a
    failure is VenueConfigurationError, nothing sent, and the next order applies everything anew. An
    order's own `leverage` wins and persists.
    """

    is_contract = True

    def __init__(
        self,
        exchange: str = "binanceusdm",
        *,
        symbol: str | None = None,
        leverage: int | None = None,
        margin_mode: str | None = "cross",
        hedge_mode: bool | None = None,
        options: Mapping[str, Any] | None = None,
        journal: JournalSource = None,
        **ccxt: Any,
    ) -> None:
        if margin_mode is not None and margin_mode.lower() not in _MARGIN_MODES:
            raise ValueError(f"margin_mode {margin_mode!r}: expected cross or isolated")
        if leverage is not None and (isinstance(leverage, bool) or leverage != int(leverage) or leverage < 1):
            raise ValueError(f"leverage {leverage!r}: expected a whole number of at least 1")
        options = {"defaultType": "future", **(options or {})}
        super().__init__(exchange, options=options, journal=journal, **ccxt)
        self.symbol = symbol
        self.leverage = leverage
        self.margin_mode = None if margin_mode is None else margin_mode.lower()
        self.hedge_mode = hedge_mode
        self._leverages: dict[str, int | None] = {}
        self._setting = asyncio.Lock()
        # A setting is asked for once: what fails is told, and tried again with the next order.
        self._once = SendPolicy(self.clock, self.random, max_retries=0, classify=self._classify)

    def _normalise(self, order: Mapping[str, Any]) -> dict[str, Any]:
        named = {"symbol": self.symbol, **order} if self.symbol else order
        body = super()._normalise(to_broker_order(named, hedge_mode=self.hedge_mode))
        is_sided = body.get("position_side") in _SIDES
        if is_sided and not self.hedge_mode:
            raise OrderValidationError(f"position_side: {body['position_side']} needs hedge_mode=True")
        if self.hedge_mode and not is_sided:
            raise OrderValidationError("position_side: hedge mode needs LONG or SHORT")
        return body

    async def _prepare(self, order: dict[str, Any]) -> None:
        await super()._prepare(order)
        name = self.venue.place_of(order["symbol"])[0].symbol
        async with self._setting:
            if name not in self._leverages:
                await self._apply(name, order.get("leverage") or self.leverage)
            elif order.get("leverage") not in {None, self._leverages[name]}:
                await self._apply_leverage(name, order["leverage"])

    async def _apply(self, name: str, leverage: int | None) -> None:
        if self.hedge_mode is not None:
            await self._set(
                "position mode", lambda: self.venue.call("set_position_mode", self.hedge_mode, name)
            )
            await self._check("position mode", name, "fetchPositionMode", _hedged, wanted=self.hedge_mode)
        if self.margin_mode is not None:
            # Spelled as venues and ccxt's own checks spell it; ccxt lowers it where that is wanted.
            mode = self.margin_mode.upper()
            await self._set("margin mode", lambda: self.venue.call("set_margin_mode", mode, name))
            await self._check("margin mode", name, "fetchMarginMode", _margin_mode, wanted=self.margin_mode)
        if leverage is not None:
            await self._apply_leverage(name, leverage)
        self._leverages[name] = leverage

    async def _apply_leverage(self, name: str, leverage: int) -> None:
        # Unknown until it is read back: a failure makes the next order set everything again.
        self._leverages.pop(name, None)
        await self._set("leverage", lambda: self.venue.call("set_leverage", leverage, name))
        await self._check("leverage", name, "fetchLeverage", _leverage, wanted=leverage)
        self._leverages[name] = leverage

    async def _set(self, what: str, change: Callable[[], Awaitable[Any]]) -> None:
        try:
            await self._once.ask(change)
        except ccxt_errors("BaseError", VenueUnavailable) as error:
            if not is_already_so(error):
                raise VenueConfigurationError(f"{what} could not be set: {error}") from error

    async def _check(
        self,
        what: str,
        name: str,
        ability: str,
        read: Callable[[Mapping[str, Any]], set[Any]],
        *,
        wanted: Any,
    ) -> None:
        """Read a setting back where the venue lets it be read."""
        if not self.venue.has(ability):
            return
        try:
            answer = await self._once.ask(lambda: self.venue.call(method_name(ability), name))
        except ccxt_errors("NotSupported"):
            return
        except ccxt_errors("BaseError", VenueUnavailable) as error:
            raise VenueConfigurationError(f"{what} could not be read back: {error}") from error
        found = read(answer) - {None}
        if found and found != {wanted}:
            raise VenueConfigurationError(f"{what} of {name} is {found.pop()}, not {wanted}")


def _hedged(answer: Mapping[str, Any]) -> set[Any]:
    return {answer.get("hedged")}


def _margin_mode(answer: Mapping[str, Any]) -> set[Any]:
    return {_CROSS.get(str(answer.get("marginMode")).lower())}


def _leverage(answer: Mapping[str, Any]) -> set[Any]:
    sides = (answer.get("longLeverage"), answer.get("shortLeverage"))
    return {None if one is None else int(one) for one in sides}
