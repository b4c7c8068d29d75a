"""The strategy port: what the engine tells a strategy, and what a strategy may do."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from qmtl.core.account import Account
from qmtl.core.event import AnyEvent, BarClosed, OrderFilled, PriceUpdated
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order, OrderIntent, PositionSide
from qmtl.core.position import Position
from qmtl.engine.quiet_bars import Numbers


class Context(Protocol):
    """The engine as a strategy sees it during one call; keep no reference to what it returns."""

    @property
    def now_ms(self) -> int:
        """Exchange time of the event being processed."""

    @property
    def account(self) -> Account:
        """Wallet, positions and marks as folded so far."""

    @property
    def orders(self) -> Sequence[Order]:
        """Orders of this strategy that have not ended; the venue's protection stop is not among them."""

    def elapsed_real_s(self, since_ms: int) -> float:
        """Return real seconds since exchange time `since_ms`: the difference divided by the speed."""

    def wake_in(self, real_s: float) -> None:
        """Ask for `on_timer` once `real_s` real seconds passed; every time-out a strategy has needs one."""

    def instrument(self, symbol: str) -> Instrument:
        """Return the steps and minimums of `symbol`."""

    def position(self, symbol: str, side: PositionSide = PositionSide.BOTH) -> Position:
        """Return the position of `symbol`."""

    def submit(self, intent: OrderIntent) -> Order | None:
        """Pass an intent to risk; return its order, or None when refused (the refusal is recorded)."""

    def cancel(self, order: Order) -> None:
        """Ask for an order to be cancelled; asking twice is asking once."""

    def refuse(self, gate: str, numbers: dict[str, float] | None = None, symbol: str = "") -> None:
        """Record that a signal was there and the strategy's own `gate` (cooldown, ...) kept it back.

        `symbol` is needed only where the strategy trades several.
        """

    def note(self, numbers: dict[str, float] | None, why: str = "", symbol: str = "") -> None:
        """Keep the numbers this bar's decision compared, and words about it, for its recorded reason.

        `symbol` is needed only where the strategy trades several.
        """

    def defer(self) -> None:
        """Within `on_bar`: owe this bar's reason until other symbols' bars were seen.

        The next `on_bar` or `on_timer` that does not defer settles it.
        """


class StrategyPort(Protocol):
    """A strategy, driven by the engine; every method is synchronous and reads no clock."""

    name: str

    @property
    def is_warm(self) -> bool:
        """Tell whether enough bars were seen to decide."""

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """Take a closed bar; the close is its last price."""

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """Take an update of the forming bar."""

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """Take a fill of an own order, already folded into position and account."""

    def on_order(self, ctx: Context, order: Order) -> None:
        """Take a changed status of an own order."""

    def on_timer(self, ctx: Context) -> None:
        """Look at time-outs; called at the moments asked for by `ctx.wake_in`, and perhaps between."""

    def dump_state(self) -> Any:
        """Return plain data (dict, list, str, int, float, None) from which `load_state` restores."""

    def load_state(self, state: Any) -> None:
        """Restore what `dump_state` returned."""


@runtime_checkable
class Foresight(StrategyPort, Protocol):
    """A strategy that was shown its history before it runs, and knows the bars it will only look at.

    A driver that feeds that history asks for the stretch ahead at which the strategy would do nothing but
    note numbers, and spares itself the calls: what is recorded of each bar is the same.
    """

    @property
    def is_prepared(self) -> bool:
        """Tell whether it was shown a history; without one it is driven bar by bar."""

    def foresee(self, ctx: Context, events: Sequence[AnyEvent], at: int) -> Sequence[BarClosed]:
        """Return the plain bars of one symbol from `events[at]` on that need no call; empty where one does.

        What holds at the last fill holds throughout: a fill between two of them ends the stretch. What is
        returned may be kept, and must not change.
        """

    def pass_quiet(self, bars: Sequence[BarClosed]) -> Numbers:
        """Step over the first bars of a stretch; return what was noted at each, read later or never."""


class SilentStrategy:
    """Base that ignores every call; override what the strategy needs.

    The engine asks which methods are overridden and skips the rest.
    """

    name = "silent"

    @property
    def is_warm(self) -> bool:
        """See StrategyPort."""
        return True

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        """See StrategyPort."""

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        """See StrategyPort."""

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        """See StrategyPort."""

    def on_order(self, ctx: Context, order: Order) -> None:
        """See StrategyPort."""

    def on_timer(self, ctx: Context) -> None:
        """See StrategyPort."""

    def dump_state(self) -> Any:
        """See StrategyPort."""
        return None

    def load_state(self, state: Any) -> None:
        """See StrategyPort."""
