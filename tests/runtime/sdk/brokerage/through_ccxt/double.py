"""A ccxt of our own making: notes what the client calls, answers what the test says."""

from types import SimpleNamespace
from typing import Any


class DoubleError(Exception):
    """Stands for whatever an adapter may raise."""


class DoubleExchange:
    """Takes every call a client makes; `fails` maps method names to errors, each raised once."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.options: dict[str, Any] = dict(config.get("options", {}))
        self.calls: list[tuple[Any, ...]] = []
        self.fails: dict[str, Exception] = {}
        self.open: list[dict[str, Any]] = []
        self.number = 6

    def _note(self, name: str, *args: Any) -> None:
        self.calls.append((name, *args))
        if name in self.fails:
            raise self.fails.pop(name)

    def named(self, name: str) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.calls if call[0] == name]

    def set_sandbox_mode(self, enabled: bool) -> None:
        self._note("set_sandbox_mode", enabled)

    def enable_demo_trading(self, enabled: bool) -> None:
        self._note("enable_demo_trading", enabled)

    async def set_leverage(self, leverage: int, symbol: str) -> None:
        self._note("set_leverage", leverage, symbol)

    async def set_margin_mode(self, mode: str, symbol: str) -> None:
        self._note("set_margin_mode", mode, symbol)

    async def set_position_mode(self, hedged: bool, symbol: str | None = None) -> None:
        self._note("set_position_mode", hedged)

    async def create_order(self, *args: Any) -> dict[str, Any]:
        self._note("create_order", *args)
        self.number += 1
        self.open.append(
            {"id": str(self.number), "clientOrderId": args[5]["clientOrderId"], "status": "open"}
        )
        return dict(self.open[-1])

    async def cancel_order(self, *args: Any) -> dict[str, Any]:
        self._note("cancel_order", *args)
        return {"id": args[0], "status": "canceled"}

    async def fetch_open_orders(self, symbol: str) -> list[dict[str, Any]]:
        self._note("fetch_open_orders", symbol)
        return self.open

    async def fetch_closed_orders(self, symbol: str) -> list[dict[str, Any]]:
        self._note("fetch_closed_orders", symbol)
        return []


def double_module() -> SimpleNamespace:
    """Return what stands for the `ccxt` package: an exchange under three names, no error classes."""
    return SimpleNamespace(binance=DoubleExchange, binanceusdm=DoubleExchange, bybit=DoubleExchange)
