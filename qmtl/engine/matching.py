"""The one fill simulator: one account's orders against the price and volume of its markets."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Protocol

from qmtl.core.account import Account
from qmtl.core.event import AnyEvent
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order
from qmtl.engine.margin import LeverageBracket, MarginMode
from qmtl.engine.venue_models import VenueModels
from qmtl.engine.working_order import WorkingOrder


class BarLike(Protocol):
    """A closed candle: `core.bar.Bar` or `BarClosed`."""

    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class MatchingCore:
    """Orders of one account against the price of each market; orders never meet each other.

    `account=None` makes one in the settle currency holding `first_wallet`. It is written here only.
    Public state: `account`, `instruments`, `models`, `hedge_mode` (set with `set_hedge_mode`),
    `margin` (leverage, margin mode, brackets per symbol; see engine.margin.MarginBook).
    Reasons of refusals are "CODE text" as Binance USDT-M documents them; split at the first blank.
    """

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        *,
        models: VenueModels | None = None,
        account: Account | None = None,
        first_wallet: Decimal = Decimal(10_000),
        hedge_mode: bool = False,
        margin_mode: MarginMode = "isolated",
        leverage: int = 1,
        brackets: Mapping[str, Sequence[LeverageBracket]] | None = None,
        first_order_id: int = 1,
        first_trade_id: int = 1,
    ) -> None: ...

    # --- orders -------------------------------------------------------------------------------
    def submit(self, order: Order, ts_ms: int) -> list[AnyEvent]:
        """Take an order: [OrderRejected] or [OrderAccepted, OrderFilled..., OrderExpired?].

        The order object is not changed or kept; its client id, intent and filled quantity are read.
        """

    def cancel(self, client_order_id: str, ts_ms: int) -> list[AnyEvent]:
        """[OrderCanceled], or [CancelRejected "-2011 Unknown order sent."]."""

    def cancel_all(self, symbol: str | None, ts_ms: int) -> list[AnyEvent]:
        """Cancel every order of `symbol` (None: of all)."""

    def open_orders(self, symbol: str | None = None) -> list[WorkingOrder]:
        """Working orders in the order they came: client_order_id, venue_order_id, intent, filled,
        filled_value, created_ms, updated_ms, is_conditional, is_triggered, stop_price."""

    def find_order(self, client_order_id: str) -> WorkingOrder | None:
        """The working order of that id, None when it is not open."""

    # --- market -------------------------------------------------------------------------------
    def on_price(
        self, symbol: str, price: float, ts_ms: int, available: Decimal | None = None
    ) -> list[AnyEvent]:
        """One trade price; `available` base units can trade on it (None: no bound)."""

    def on_bar(self, symbol: str, bar: BarLike, ts_ms: int) -> list[AnyEvent]:
        """One closed candle along the declared path; `ts_ms` is its close time."""

    def on_mark(self, symbol: str, mark: float, ts_ms: int) -> list[AnyEvent]:
        """A mark price; until the first one of a symbol its last price is the mark."""

    def on_funding(
        self, symbol: str, rate: Decimal, ts_ms: int, mark: float | None = None
    ) -> list[AnyEvent]:
        """[FundingPaid...] of the open positions (a positive rate is paid by longs)."""

    def on_time(self, ts_ms: int) -> list[AnyEvent]:
        """Expire DAY and GTD orders that are due."""

    # --- account ------------------------------------------------------------------------------
    def set_hedge_mode(self, *, is_hedged: bool) -> None:
        """Change the position mode; VenueRefused (-4059, -4067, -4068)."""

    def set_leverage(self, symbol: str, leverage: int) -> None:
        """Change the leverage of a symbol; VenueRefused (-4028, -4161, -2027, -2028)."""

    def set_margin_mode(self, symbol: str, mode: MarginMode) -> None:
        """Change isolated/cross; VenueRefused (-4046, -4047, -4048)."""

    def add_margin(self, symbol: str, side: object, amount: Decimal) -> None:
        """Move money to (negative: from) an isolated position; VenueRefused."""

    def transfer(self, amount: Decimal, ts_ms: int) -> list[AnyEvent]:
        """[Transferred]; money in (positive) or out."""

    def last_price(self, symbol: str) -> float | None:
        """Last trade price."""

    def mark_price(self, symbol: str) -> float | None:
        """Mark price."""

    def available(self) -> Decimal:
        """Balance free for new orders: wallet + cross profit - position margin - order margin."""

    def liquidation_price(self, symbol: str, side: object = None) -> Decimal | None:
        """Where the position would be liquidated, None when flat or nowhere."""
