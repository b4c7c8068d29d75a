"""From a strategy class to the engine's strategy port, and back from the plain data a journal holds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from qmtl.engine.strategy import StrategyPort
from qmtl.runtime.sdk.event_face import EventFace
from qmtl.runtime.sdk.param import StrategyError, Value
from qmtl.runtime.sdk.signal_face import SignalFace
from qmtl.runtime.sdk.signal_reader import WindowReader
from qmtl.runtime.sdk.strategy import Strategy, make_strategy
from qmtl.runtime.sdk.strategy_file import StrategySource, load_kept
from qmtl.runtime.sdk.trade_plan import TradePlan, parse_plan
from qmtl.runtime.sdk.warmup import find_warmup

LOWERED = f"{__name__}:Lowered"
"""What a session's setup names; the strategy itself is among its parameters."""

Plain = str | int | float | bool | None


class Lowered:
    """The strategy a session names, made of plain data; see `dump_lowered`."""

    @staticmethod
    def from_params(params: Mapping[str, Any]) -> StrategyPort:
        """Build the port; StrategyError names a file that is gone or changed without a copy being kept."""
        given = dict(params)
        kept = given.pop("kept", None)
        source = load_kept(str(given["strategy"]), str(given["sha256"]), None if kept is None else Path(kept))
        values = {name[6:]: value for name, value in given.items() if name.startswith("param.")}
        plan = parse_plan({name[5:]: value for name, value in given.items() if name.startswith("plan.")})
        warmup = given.get("warmup")
        strategy = make_strategy(source.cls, values)
        return lower(strategy, plan, None if warmup is None else int(warmup))


def lower(strategy: Strategy, plan: TradePlan, warmup: int | None) -> StrategyPort:
    """Put a strategy on the port, to decide bar by bar; `warmup` is what `find_warmup` told."""
    face = strategy.face()
    if face == "port":
        return cast("StrategyPort", strategy.make_port(plan))
    if face == "events":
        return EventFace(strategy, plan)
    if face != "signals":
        raise StrategyError(f"{type(strategy).__name__} is made of nodes: Runner.submit runs it")
    keep = plan.volatility_window + 1 if plan.volatility_target is not None else 0
    readers = {
        symbol: WindowReader(strategy, warmup or 1, keep, symbol=symbol, interval=plan.interval)
        for symbol in plan.markets
    }
    for symbol, reader in readers.items():
        reader.others = {name: other.ring for name, other in readers.items() if name != symbol}
    return SignalFace(strategy, plan, readers)


def dump_lowered(
    source: StrategySource, strategy: Strategy, plan: TradePlan, kept: Path | None = None
) -> dict[str, Plain]:
    """Return the plain data of which `Lowered.from_params` makes the same port again."""
    is_signals = strategy.face() == "signals"
    params: dict[str, Plain] = {"strategy": source.reference, "sha256": source.sha256}
    if kept is not None:
        params["kept"] = str(kept)
    if is_signals:
        params["warmup"] = find_warmup(source, strategy, plan.markets)
    params |= {f"plan.{name}": value for name, value in plan.dump().items()}
    values: dict[str, Value] = strategy.chosen
    return params | {f"param.{name}": value for name, value in values.items()}
