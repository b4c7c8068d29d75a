"""A worker's figures are the event tier's of the same stretch; indicators and signals are computed once."""

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qmtl.cli.sweep import digest
from qmtl.core.instrument import list_instrument
from qmtl.core.interval import FUNDING_MS
from qmtl.engine.kernel import KernelError
from qmtl.engine.splits import walk_forward
from qmtl.runtime.sdk.backtest_job import BacktestJob
from qmtl.runtime.sdk.backtest_run import run_backtest
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.bars import Bars
from qmtl.runtime.sdk.market_history import Funding, MarketHistory, make_history
from qmtl.runtime.sdk.param import StrategyError
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.sweep_job import SweepJob, check_face, find_conditions
from qmtl.runtime.sdk.sweep_worker import SweepWorker
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.runtime.sdk.warmup import measure_warmup
from tests.runtime.sdk.strategies import BAND_BREAK, walk

BTC = list_instrument("BTCUSDT", 1, 3)
COUNTING = BAND_BREAK.replace(
    "        middle, width", "        CALLS.append(self.window)\n        middle, width"
)
COUNTING = COUNTING.replace("class BandBreak", "CALLS = []\n\n\nclass BandBreak")

STAYS_IN = """\
import numpy as np

from qmtl.runtime.sdk import Bars, Signals, Strategy


class StaysIn(Strategy):
    def signals(self, bars: Bars) -> Signals:
        return Signals(long=np.ones(len(bars), bool))
"""

MAKES = """\
    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        self.__dict__["made"] = self.window

"""
WARMS = """\
    quiet = Param(20)

    @property
    def warmup(self):
        return self.quiet

"""


def history(rows: int = 2_500) -> MarketHistory:
    bars = walk(rows)
    slots = range(int(bars.open_ms[0]) // FUNDING_MS, int(bars.open_ms[-1]) // FUNDING_MS + 1)
    funding = {slot: Funding(slot * FUNDING_MS, 0.0001, 60_000.5) for slot in slots}
    return make_history(bars, source="walk", node_id="ohlcv:test", funding=funding)


def job(place: Path, text: str = BAND_BREAK, **changes: Any) -> SweepJob:
    file = place / "band_break.py"
    file.write_text(text)
    given: dict[str, Any] = {
        "source": load_source(str(file)),
        "fixed": {},
        "plan": TradePlan(),
        "terms": BacktestTerms(),
        "histories": {"BTCUSDT": history()},
        "instrument": BTC,
        "splits": walk_forward(2_500, 3),
    }
    return SweepJob(**{**given, **changes})


def worker(one: SweepJob, place: Path) -> SweepWorker:
    return SweepWorker(one.write(place / "columns").config)


@pytest.mark.parametrize(
    ("plan", "terms"),
    [
        (TradePlan(), BacktestTerms()),
        (TradePlan(notional=Decimal(500)), BacktestTerms(slippage_ticks=0, fill="close")),
        (
            TradePlan(volatility_target=Decimal("0.3"), volatility_window=60),
            BacktestTerms(fee=Decimal("0.00025")),
        ),
    ],
)
def test_a_training_from_the_first_bar_is_the_backtest_of_it(
    tmp_path: Path, plan: TradePlan, terms: BacktestTerms
) -> None:
    one = job(tmp_path, plan=plan, terms=terms)
    params = {"window": 15, "inner": 1.25, "stop": 0.002}
    found = worker(one, tmp_path).evaluate(params)
    strategy = make_strategy(one.source.cls, params)
    whole = one.histories["BTCUSDT"]
    end = int(whole.bars.open_ms[one.splits[0].train_end])
    result = run_backtest(
        BacktestJob(
            strategy=strategy, plan=plan, histories={"BTCUSDT": whole.between(0, end)},
            instruments={"BTCUSDT": BTC}, terms=terms, warmup=measure_warmup(strategy),
        )
    )  # fmt: skip
    train = found["train"][0]
    assert train["trades"] == len(result.trades) > 20
    assert train["net"] == pytest.approx(sum(float(trade.pnl) for trade in result.trades), abs=1e-6)
    assert train["total_return"] == pytest.approx(result.net / 10_000, abs=1e-12)
    assert train["sharpe"] == pytest.approx(result.figures()["sharpe"], abs=1e-9)


@pytest.mark.parametrize("terms", [BacktestTerms(), BacktestTerms(fill="close", slippage_ticks=0)])
def test_a_training_over_cuts_is_the_backtest_that_excludes_them(
    tmp_path: Path, terms: BacktestTerms
) -> None:
    whole = history()
    opens = whole.bars.open_ms
    cuts = [(int(opens[begin]), int(opens[end])) for begin, end in ((180, 260), (431, 490), (700, 701))]
    splits = walk_forward(2_500 - 80 - 59 - 1, 3)
    one = job(tmp_path, terms=terms, splits=splits, excluded=cuts)
    params = {"window": 12, "inner": 0.75, "stop": 0.02, "target": 0.03}
    found = worker(one, tmp_path).evaluate(params)
    strategy = make_strategy(one.source.cls, params)
    end = int(opens[splits[0].train_end + 80 + 59 + 1])
    result = run_backtest(
        BacktestJob(
            strategy=strategy, plan=TradePlan(), histories={"BTCUSDT": whole.between(0, end)},
            instruments={"BTCUSDT": BTC}, terms=terms, warmup=measure_warmup(strategy), excluded=cuts,
        )
    )  # fmt: skip
    assert "excluded" in {trade.why_out for trade in result.trades}
    train = found["train"][0]
    assert train["trades"] == len(result.trades) > 20
    assert train["net"] == pytest.approx(sum(float(trade.pnl) for trade in result.trades), abs=1e-6)
    assert train["total_return"] == pytest.approx(result.net / 10_000, abs=1e-12)
    assert train["over_holes"] == len(result.trades_over_holes) == 0
    assert one.identify() != job(tmp_path, terms=terms, splits=splits).identify()


def test_trades_over_missing_candles_are_counted(tmp_path: Path) -> None:
    whole = history()
    kept = np.ones(2_500, bool)
    kept[300:340] = kept[900:905] = False
    columns = [
        getattr(whole.bars, name)[kept] for name in ("open_ms", "open", "high", "low", "close", "volume")
    ]
    holed = make_history(Bars(*columns, symbol="BTCUSDT"), source="walk", node_id="ohlcv:test")
    one = job(tmp_path, histories={"BTCUSDT": holed}, splits=walk_forward(2_455, 3))
    params = {"window": 12, "inner": 0.75, "stop": 0.02, "target": 0.03}
    strategy = make_strategy(one.source.cls, params)
    end = int(holed.bars.open_ms[one.splits[0].train_end])
    result = run_backtest(
        BacktestJob(
            strategy=strategy, plan=TradePlan(), histories={"BTCUSDT": holed.between(0, end)},
            instruments={"BTCUSDT": BTC}, terms=BacktestTerms(), warmup=measure_warmup(strategy),
        )
    )  # fmt: skip
    train = worker(one, tmp_path).evaluate(params)["train"][0]
    assert train["over_holes"] == len(result.trades_over_holes) > 0


def test_another_funding_is_another_sweep_and_leaves_nothing_to_the_next(tmp_path: Path) -> None:
    bars = history().bars
    slot = int(bars.open_ms[1_500]) // FUNDING_MS
    prints: list[str] = []
    paid: list[float] = []
    for funding in ({slot: Funding(slot * FUNDING_MS, 0.1)}, {slot: Funding(slot * FUNDING_MS, -0.1)}, None):
        held = make_history(bars, source="walk", node_id="ohlcv:test", funding=funding)
        one = job(
            tmp_path, STAYS_IN, histories={"BTCUSDT": held}, splits=walk_forward(2_500, 1, train_share=9)
        )
        prints.append(digest(one.identify()))
        paid.append(worker(one, tmp_path).evaluate({})["train"][0]["funding"])
    assert len(set(prints)) == 3
    assert paid[0] == pytest.approx(-paid[1])
    assert (paid[0] < 0, paid[2]) == (True, 0)


def test_a_payment_that_is_stamped_late_is_due_at_its_slot(tmp_path: Path) -> None:
    bars = history().bars
    slot = int(bars.open_ms[1_500]) // FUNDING_MS
    paid = []
    for late_ms in (0, 12):
        funding = {slot: Funding(slot * FUNDING_MS + late_ms, 0.1)}
        held = make_history(bars, source="walk", node_id="ohlcv:test", funding=funding)
        one = job(
            tmp_path, STAYS_IN, histories={"BTCUSDT": held}, splits=walk_forward(2_500, 1, train_share=9)
        )
        paid.append(worker(one, tmp_path).evaluate({})["train"][0])
    assert paid[0] == paid[1]
    assert paid[0]["funding"] < 0


def test_a_volatility_target_does_not_look_over_a_cut(tmp_path: Path) -> None:
    opens = history().bars.open_ms
    plan = TradePlan(volatility_target=Decimal("0.3"))
    one = job(tmp_path, plan=plan, excluded=[(int(opens[100]), int(opens[200]))])
    with pytest.raises(KernelError, match="volatility target would look over a cut"):
        worker(one, tmp_path)._market.terms(find_conditions(plan, BacktestTerms()))


def test_tests_are_whole_and_their_returns_end_to_end(tmp_path: Path) -> None:
    one = job(tmp_path)
    found = worker(one, tmp_path).evaluate({"window": 20})
    assert [len(found["train"]), len(found["test"])] == [3, 3]
    assert sum(test["periods"] for test in found["test"]) == len(found["returns"])
    first = found["test"][0]
    growth = np.prod(1 + np.array(found["returns"][: first["periods"]])) - 1
    assert growth == pytest.approx(first["total_return"])
    assert first["fees"] > 0


def test_signals_are_computed_once_for_sets_that_differ_in_what_they_do_not_read(tmp_path: Path) -> None:
    one = job(tmp_path, COUNTING)
    crew = worker(one, tmp_path)
    calls = one.source.cls.signals.__globals__["CALLS"]
    calls.clear()
    crew.evaluate({"window": 20, "inner": 1.0})
    after_first = len(calls)
    again = crew.evaluate({"window": 20, "inner": 1.0, "stop": 0.003})
    assert len(calls) == after_first
    hits = crew._memo.hits
    crew.evaluate({"window": 20, "inner": 1.5})
    assert crew._memo.hits > hits
    fresh = worker(one, tmp_path).evaluate({"window": 20, "inner": 1.0, "stop": 0.003})
    assert again == fresh


@pytest.mark.parametrize("found", ["vars(self)['window']", "self.window + 0 * self.made", "self.made"])
def test_parameters_read_on_other_ways_are_read(tmp_path: Path, found: str) -> None:
    """All at once, beside what was derived when they were set, or through that alone."""
    text = BAND_BREAK.replace("    def signals", MAKES + "    def signals")
    text = text.replace("ta.mean_std(bars.close, self.window)", f"ta.mean_std(bars.close, {found})")
    assert found in text
    one = job(tmp_path, text)
    params = [{"window": window, "inner": 0.75} for window in (12, 30)]
    shared = worker(one, tmp_path)
    assert [shared.evaluate(each) for each in params] == [
        worker(one, tmp_path).evaluate(each) for each in params
    ]


def test_a_warmup_that_a_parameter_decides_is_that_of_its_set(tmp_path: Path) -> None:
    text = BAND_BREAK.replace("    def signals", WARMS + "    def signals")
    shared = worker(job(tmp_path, text), tmp_path)
    early, late = (shared.evaluate({"window": 12, "quiet": quiet}) for quiet in (20, 600))
    assert late["train"][0]["trades"] < early["train"][0]["trades"]


def test_a_strategy_that_writes_into_an_indicator_still_runs(tmp_path: Path) -> None:
    writing = BAND_BREAK.replace("        upper, lower", "        width *= 1.0\n        upper, lower")
    params = {"window": 20, "inner": 1.0}
    found = worker(job(tmp_path, writing), tmp_path).evaluate(params)
    assert found == worker(job(tmp_path), tmp_path).evaluate(params)


def test_what_a_set_raises_names_file_and_line(tmp_path: Path) -> None:
    failing = BAND_BREAK.replace(
        "        middle, width", "        1 / (self.window - 20)\n        middle, width"
    )
    crew = worker(job(tmp_path, failing), tmp_path)
    assert crew.evaluate({"window": 21})["train"]
    with pytest.raises(StrategyError, match=r"band_break\.py:\d+: ZeroDivisionError"):
        crew.evaluate({"window": 20})
    with pytest.raises(StrategyError, match="has no parameter windw"):
        crew.evaluate({"windw": 20})


def test_what_only_the_event_tier_can_do_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KernelError, match="latency_ms 20"):
        find_conditions(TradePlan(), BacktestTerms(latency_ms=20))
    with pytest.raises(KernelError, match="liquidity candle_share"):
        find_conditions(TradePlan(), BacktestTerms(liquidity="candle_share"))
    check_face(job(tmp_path).source)
    for text, words in (
        (BAND_BREAK.replace('"1m", "close"', '"1m", "tick"'), "decides on ticks"),
        (
            BAND_BREAK.replace("def signals", "def on_bar").replace("(self, bars: Bars)", "(self, ctx, bar)"),
            "no signals",
        ),
    ):
        with pytest.raises(StrategyError, match=words):
            check_face(job(tmp_path, text).source)
