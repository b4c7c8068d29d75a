"""Live beside its own backtest: which decisions differ and how, and costs beside what was assumed."""

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

import msgspec

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, OrderFilled
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.money import ZERO
from qmtl.core.order import OrderType, Role
from qmtl.core.reason import Reason
from qmtl.engine.rerun import Rerun

_SHIFTS = {1: "one bar late", 2: "two bars late", -1: "one bar early"}
"""By how many bars live decisions may have slid, and how that is called."""

_ACTIVE = {Reason.ENTERED, Reason.EXITED, Reason.REFUSED}
_FEE_SHARE = Decimal("0.01")
"""Venues round each fee: a rate counts as another one from a hundredth of it on."""

_RATE_STEP = Decimal("0.000001")


class Decision(msgspec.Struct, frozen=True):
    """What was decided at one bar: its reason, and "BUY entry" for each intent since the bar before.

    Stops and targets are named once, in however many parts their entry filled.
    """

    reason: str
    intents: tuple[str, ...] = ()


_WARMING_UP = Decision(str(Reason.WARMING_UP))


class Difference(msgspec.Struct, frozen=True):
    """One bar that live and backtest decided differently; None where one of them decided nothing."""

    symbol: str
    open_ms: int
    live: Decision | None
    again: Decision | None


class FeeBreak(msgspec.Struct, frozen=True):
    """So many fills paid `rate` of their notional where `assumed` was."""

    rate: Decimal
    assumed: Decimal
    fills: int


class Slide(msgspec.Struct, frozen=True):
    """So many live decisions, `decisions`, are those of the backtest `words`: one bar late."""

    words: str
    decisions: int


class Parity(msgspec.Struct, kw_only=True):
    """The comparison of one period; `slippage` is mean ticks worse than the market price, None without fills.

    `late_fills` are market orders that filled a bar or more after they were sent; `other_fees` are fills
    paid in another asset, whose rate is not compared.
    """

    begin_ms: int
    end_ms: int
    decisions: int
    equal: int
    differences: list[Difference]
    slide: Slide | None
    fills: int
    slippage: float | None
    fees: list[FeeBreak]
    late_fills: int
    other_fees: int

    @property
    def is_equal(self) -> bool:
        """Tell whether live did what its backtest does, at the costs that were assumed."""
        return not (self.differences or self.fees or self.late_fills)


def compare(found: Rerun, fees: MakerTakerFeeModel, asset: str) -> Parity:
    """Compare a period with its rerun; `fees` are those assumed, paid in `asset`."""
    live, again = collect(found.live), collect(found.again)
    # A bar that only warmed the strategy up, on both sides, decided nothing.
    idle = {key for key in live.keys() & again.keys() if live[key] == again[key] == _WARMING_UP}
    keys = sorted((live.keys() | again.keys()) - idle, key=lambda key: (key[1], key[0]))
    differences = [
        Difference(*key, live.get(key), again.get(key)) for key in keys if live.get(key) != again.get(key)
    ]
    fills = [event for event in found.live if isinstance(event, OrderFilled)]
    ticks = found.ticks
    return Parity(
        begin_ms=found.begin_ms,
        end_ms=found.end_ms,
        decisions=len(keys),
        equal=len(keys) - len(differences),
        differences=differences,
        slide=_find_slide(differences, again, found.interval_ms),
        fills=len(fills),
        slippage=sum(ticks) / len(ticks) if ticks else None,
        fees=_find_fee_breaks(fills, fees, asset),
        late_fills=_count_late(found),
        other_fees=sum(fill.fee != ZERO and fill.fee_asset != asset for fill in fills),
    )


def collect(events: Iterable[AnyEvent]) -> dict[tuple[str, int], Decision]:
    """Return decisions by symbol and start of the bar; intents belong to the next decision."""
    found: dict[tuple[str, int], Decision] = {}
    waiting: dict[str, list[str]] = {}
    for event in events:
        if isinstance(event, IntentRecorded):
            intent = event.intent
            words = f"{intent.side} {intent.role}"
            mine = waiting.setdefault(intent.symbol, [])
            if intent.role is Role.ENTRY or words not in mine:
                mine.append(words)
        elif isinstance(event, DecisionMade):
            intents = tuple(sorted(waiting.pop(event.symbol, ())))
            found[event.symbol, event.open_ms] = Decision(str(event.reason), intents)
    return found


def _find_slide(
    differences: list[Difference], again: dict[tuple[str, int], Decision], interval_ms: int
) -> Slide | None:
    """Return how live decisions slid, where that explains at least half of those that did something."""
    did = [one for one in differences if one.live is not None and one.live.reason in _ACTIVE]
    counts = {
        words: sum(again.get((one.symbol, one.open_ms - bars * interval_ms)) == one.live for one in did)
        for bars, words in _SHIFTS.items()
    }
    words, count = max(counts.items(), key=lambda item: item[1])
    return Slide(words, count) if count and 2 * count >= len(did) else None


def _find_fee_breaks(fills: list[OrderFilled], fees: MakerTakerFeeModel, asset: str) -> list[FeeBreak]:
    breaks: Counter[tuple[Decimal, Decimal]] = Counter()
    for fill in fills:
        if fill.fee and fill.fee_asset != asset:
            continue
        assumed = fees.maker if fill.is_maker else fees.taker
        rate = fill.fee / (fill.quantity * fill.price)
        if abs(rate - assumed) > abs(assumed) * _FEE_SHARE:
            breaks[rate.quantize(_RATE_STEP).normalize(), assumed] += 1
    return [FeeBreak(rate, assumed, count) for (rate, assumed), count in breaks.most_common()]


def _count_late(found: Rerun) -> int:
    sent: dict[str, int] = {}
    late = 0
    for event in found.live:
        if isinstance(event, IntentRecorded) and event.intent.type is OrderType.MARKET:
            sent[event.client_order_id] = event.ts_ms
        elif isinstance(event, OrderFilled):
            sent_ms = sent.pop(event.client_order_id, event.ts_ms)
            late += event.ts_ms - sent_ms >= found.interval_ms
    return late
