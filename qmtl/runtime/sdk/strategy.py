"""What a strategy author writes: one class with three faces, of which a strategy uses one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from qmtl.runtime.sdk.nodes.base import Node
from qmtl.runtime.sdk.param import Param, StrategyError, Value, check_names, find_params

if TYPE_CHECKING:
    from qmtl.runtime.sdk.bars import Bars
    from qmtl.runtime.sdk.signals import Checkable

Face = Literal["signals", "events", "nodes", "port"]

_EVENTS = ("on_bar", "on_tick", "on_fill", "on_order", "on_timer")


class Strategy:
    """Base of every strategy; override what makes one of its faces.

    Signals face: `signals(bars)`, arrays in, booleans out. Event face: `on_bar` and the other `on_…` calls.
    Node face: `setup` makes the nodes and hands them to `add_nodes`. `interval` is the candle it decides on;
    `decide_on` "close" or "tick"; `symbols` what it trades where it is not told; `warmup` closed bars before
    the first decision (None: measured); `lookback` the most bars `ctx.bars(n)` can be asked for.
    """

    interval: ClassVar[str] = "1m"
    decide_on: ClassVar[str] = "close"
    symbols: ClassVar[Sequence[str]] = ()
    warmup: ClassVar[int | None] = None
    lookback: ClassVar[int] = 500

    def __init__(self, **params: Value) -> None:
        self.nodes: list[Node] = []
        check_names(type(self), params)
        for name, value in params.items():
            setattr(self, name, value)

    # --- parameters --------------------------------------------------------------------------------

    @classmethod
    def params(cls) -> dict[str, Param]:
        """Return the parameters by name, in the order they were written."""
        return find_params(cls)

    @property
    def chosen(self) -> dict[str, Value]:
        """The value of every parameter."""
        return {name: getattr(self, name) for name in find_params(type(self))}

    def fraction(self, role: Literal["stop", "target"]) -> float | None:
        """Return the fraction of the parameter with `role`, None without one or where it is 0."""
        for name, param in find_params(type(self)).items():
            if param.role == role:
                return float(getattr(self, name)) or None
        return None

    @classmethod
    def face(cls) -> Face:
        """Return which face is used; StrategyError where there is none, or more than one."""
        found: list[Face] = []
        if cls.signals is not Strategy.signals:
            found.append("signals")
        if any(getattr(cls, name) is not getattr(Strategy, name) for name in _EVENTS):
            found.append("events")
        if cls.setup is not Strategy.setup:
            found.append("nodes")
        if cls.make_port is not Strategy.make_port:
            found.append("port")
        if len(found) != 1:
            wanted = "one of signals(bars), on_bar(ctx, bar) or setup()"
            raise StrategyError(f"{cls.__name__}: expected {wanted}, found {' and '.join(found) or 'none'}")
        return found[0]

    # --- the signals face --------------------------------------------------------------------------

    def signals(self, bars: "Bars") -> "Checkable":
        """Return Signals (or a ConditionSet): when to enter and leave.

        Pure: the same bars give the same signals.
        """
        raise NotImplementedError

    # --- the event face ----------------------------------------------------------------------------

    def on_bar(self, ctx: Any, bar: Any) -> None:
        """Take a closed bar."""

    def on_tick(self, ctx: Any, tick: Any) -> None:
        """Take a price of the forming bar."""

    def on_fill(self, ctx: Any, fill: Any) -> None:
        """Take a fill of an own order; position and equity know it already."""

    def on_order(self, ctx: Any, order: Any) -> None:
        """Take a changed status of an own order."""

    def on_timer(self, ctx: Any) -> None:
        """Look at time-outs, at the moments asked for by `ctx.wake_in(seconds)`."""

    def make_port(self, plan: Any) -> Any:
        """Return an `engine.strategy.StrategyPort` of the strategy's own, for what no face can say.

        `plan` is the `TradePlan`: markets, candle and size.
        """
        raise NotImplementedError

    # --- the node face -----------------------------------------------------------------------------

    def setup(self) -> None:
        """Make the nodes of the strategy; override it."""

    def add_nodes(self, *nodes: Node | Iterable[Any]) -> None:
        """Add nodes, however nested the lists that hold them.

        ValueError naming a node without interval or period, or what is no node.
        """
        for one in _flatten(nodes):
            if not isinstance(one, Node):
                raise ValueError(f"add_nodes: expected nodes, got {one!r}")
            for field in ("interval", "period"):
                if getattr(one, field) is None:
                    raise ValueError(f"{one.node_id}: {field} is missing")
            if one not in self.nodes:
                self.nodes.append(one)


def make_strategy(cls: type[Strategy], params: Mapping[str, Value] | None = None) -> Strategy:
    """Make a strategy and set its parameters, whatever its own constructor takes."""
    given = dict(params or {})
    check_names(cls, given)
    strategy = cls()
    for name, value in given.items():
        setattr(strategy, name, value)
    return strategy


def _flatten(given: Iterable[Any]) -> Iterable[Any]:
    for one in given:
        if isinstance(one, list | tuple | set | frozenset):
            yield from _flatten(one)
        else:
            yield one
