"""What the shipped strategies came to on recorded candles after costs, win or lose.

Every run is the event tier with the usual terms: 10,000 USDT, a tenth of equity a position, fee 0.04 % taking
and 0.02 % resting, one tick of slippage, recorded funding.
"""

import json
import os
import time
from pathlib import Path

from bench.measure import RESULTS, machine
from qmtl.core.instrument import list_instrument
from qmtl.runtime.io.market_file import load_funding, load_history
from qmtl.runtime.sdk.backtest_job import BacktestJob
from qmtl.runtime.sdk.backtest_run import run_backtest
from qmtl.runtime.sdk.backtest_terms import BacktestTerms
from qmtl.runtime.sdk.strategy import make_strategy
from qmtl.runtime.sdk.strategy_file import load_source
from qmtl.runtime.sdk.trade_plan import TradePlan
from qmtl.runtime.sdk.warmup import find_warmup

ROOM = "qmtl.examples.strategies"
STRATEGIES = (
    f"{ROOM}.band_break:BandBreak",
    f"{ROOM}.bollinger:Bollinger",
    f"{ROOM}.bollinger:BollingerClose",
    f"{ROOM}.macd_cross:MacdCross",
    f"{ROOM}.rsi_reversion:RsiReversion",
    f"{ROOM}.donchian_breakout:DonchianBreakout",
    f"{ROOM}.funding_carry:FundingCarry",
    f"{ROOM}.grid:Grid",
)
CANDLES = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"
RATES = "candles/BTCUSDT_UM_8h-funding_rate.feather"
_SHOWN = ("trades", "net_pct", "max_drawdown_bars", "sharpe", "sharpe_low", "sharpe_high", "exposure")


def measure(reference: str, data: Path) -> dict[str, object]:
    """Run one strategy; return its figures, shares of the first balance."""
    source = load_source(reference)
    strategy = make_strategy(source.cls)
    warmup = find_warmup(source, strategy) if strategy.face() == "signals" else 0
    history = load_history(
        data / CANDLES, symbol="BTCUSDT", interval=strategy.interval, funding=load_funding(data / RATES)
    )
    job = BacktestJob(
        strategy=strategy,
        plan=TradePlan(),
        histories={"BTCUSDT": history},
        instruments={"BTCUSDT": list_instrument("BTCUSDT", 1, 3)},
        terms=BacktestTerms(),
        warmup=warmup,
    )
    began = time.process_time()
    result = run_backtest(job)
    figures = result.figures()
    row: dict[str, object] = {name: figures[name] for name in _SHOWN}
    row |= {name: figures[name] / result.wallet for name in ("gross", "fees", "funding")}
    row |= {"seconds": round(time.process_time() - began, 2), "fingerprint": history.fingerprint}
    row["unknown_rates"] = len(result.funding_holes)
    if result.other_bound is not None:
        row["other_path_net_pct"] = result.other_bound.figures()["net_pct"]
    return row


def main() -> None:
    """Run all, print and write them."""
    data = Path(os.environ.get("QMTL_TEST_DATA", "../shared/data"))
    found = {}
    for reference in STRATEGIES:
        name = reference.rpartition(":")[2]
        found[name] = row = measure(reference, data)
        print(name, {key: round(value, 4) for key, value in row.items() if isinstance(value, float)})
    body = {"machine": machine(), "data": CANDLES, "strategies": found}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "strategies.json").write_text(json.dumps(body, indent=2) + "\n")


if __name__ == "__main__":
    main()
