"""What a tearsheet draws and says, from plain data."""

import json
import re
from typing import Any

import numpy as np
import pytest

from qmtl.engine.tearsheet import percent, render_tearsheet, verdict
from qmtl.engine.tearsheet_charts import (
    BANDS,
    MOST_CANDLES,
    MOST_POINTS,
    draw_costs,
    draw_equity,
    draw_months,
    draw_profits,
    draw_trades,
    join_candles,
    thin,
)
from qmtl.engine.tearsheet_style import SCRIPT

DAY_MS = 86_400_000
ROWS = 400
OPEN_MS = np.arange(ROWS, dtype=np.int64) * DAY_MS // 4
CLOSE = np.linspace(100.0, 120.0, ROWS)
FIGURES = {
    "trades": 2, "net": -3.0, "gross": 1.0, "fees": 4.0, "funding": 0.0, "net_pct": -0.003, "period": "day",
    "sharpe": -1.1, "sharpe_low": -1.9, "sharpe_high": -0.2, "max_drawdown_bars": 0.04, "turnover": 2_000.0,
}  # fmt: skip


def make_record(**changes: Any) -> dict[str, Any]:
    data = {
        "symbol": "BTCUSDT", "interval": "6h", "source": "a.feather", "start_ms": 0,
        "end_ms": ROWS * DAY_MS // 4, "rows": ROWS, "expected": ROWS, "fingerprint": "sha256:9c1e",
    }  # fmt: skip
    return {
        "id": "7f3a0000",
        "strategy": {"class": "BandBreak", "label": "band_break.py", "sha256": "ab" * 32},
        "params": {"window": 20, "note": "<b>"},
        "data": [data],
        "holes": [{"start_ms": 0, "end_ms": DAY_MS, "reason": "outage </script>"}],
        "excluded": [],
        "trades_over_holes": 1,
        "terms": {"wallet": "1000", "asset": "USDT", "leverage": 1, "margin_mode": "isolated"},
        "sizing": "size 10 %", "costs": "fee 0.04 %", "fill_model": "next_open", "path": "olhc", "seed": 7,
        "trades_hash": "cd", "versions": {"qmtl": "0.1.0"}, "command": ["qmtl", "backtest"],
        "figures": FIGURES,
    } | changes  # fmt: skip


def render(close: Any = CLOSE, **changes: Any) -> str:
    bars = dict.fromkeys(("open", "high", "low", "close"), close)
    own = {"open_ms": OPEN_MS, "equity": 1000 + CLOSE, "notional": np.zeros(ROWS), "upper": CLOSE + 1}
    trades: dict[str, list[Any]] = {
        "symbol": ["BTCUSDT", "ETHUSDT"], "entry_ts": [0, DAY_MS], "exit_ts": [DAY_MS, None],
        "side": ["long", "short"], "quantity": [1.0, 1.0],
        "entry": [100.0, 4.2551], "exit": [99.0, None], "fee": [2.0, 2.0], "funding": [0.0, 0.0],
        "pnl": [-3.0, 0.5], "why_in": ["up", "down"], "why_out": ["stop", ""],
    }  # fmt: skip
    return render_tearsheet(make_record(**changes), bars | own, trades, script="/* plotly */")


def figures_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="figures">(.*?)</script>', page, re.DOTALL)
    assert found
    drawn: dict[str, Any] = json.loads(found[1])
    return drawn


def test_the_page_needs_nothing_from_outside_and_text_stays_text() -> None:
    page = render()
    assert "http" not in page.replace("http-equiv", "")
    assert "<b>" not in re.sub(r"<b>[^<]", "", page)
    assert "outage &lt;/script&gt;" in page
    drawn = figures_of(page)
    assert set(drawn) == {"equity", "trades", "costs", "profits", "months", "exposure"}
    assert all(f'id="{name}"' in page for name in drawn)
    assert [one["name"] for one in drawn["trades"]["data"]] == [
        "price", "upper", "long (1)", "short (1)", "exit (1)",
    ]  # fmt: skip


def test_a_market_that_begins_later_leaves_a_gap() -> None:
    """Of several symbols the first need not have a candle at every time of the run."""
    late = np.where(np.arange(ROWS) < 30, np.nan, CLOSE)
    drawn = figures_of(render(late))
    benchmark, candles = drawn["equity"]["data"][0]["y"], drawn["trades"]["data"][0]["close"]
    assert (benchmark[29], benchmark[30]) == (None, 1_000.0)
    assert (candles[29], candles[30]) == (None, CLOSE[30])


def test_one_market_of_several_is_drawn_and_named() -> None:
    one = make_record()["data"][0]
    assert "<td>long</td>" in render()
    page = render(data=[one, one | {"symbol": "ETHUSDT", "start_ms": -3 * DAY_MS}])
    drawn = figures_of(page)
    assert [trace["name"] for trace in drawn["trades"]["data"][2:]] == ["long (1)", "short (0)", "exit (1)"]
    assert drawn["equity"]["data"][0]["name"] == "buy and hold BTCUSDT"
    for words in ("<h2>Trades · BTCUSDT</h2>", "<td>ETHUSDT short</td>", "1969-12-29 to", "4.2551"):
        assert words in page


def test_what_must_be_said_is_said() -> None:
    page = render(other_path={"path": "ohlc", "figures": {"net_pct": 0.01}})
    for words in ("−0.30% net", "Costs eat the profit", "INTRABAR ASSUMED", "span missing candles",
                  "qmtl reproduce 7f3a0000", "sha256:9c1e", "band_break.py"):  # fmt: skip
        assert words in page
    assert "SYNTHETIC" not in page
    assert "rates unknown" not in page
    assert "Excluded" not in page
    assert "<th>cut 1</th><td>1970-01-02 00:00 to 1970-01-03 00:00</td>" in render(
        excluded=[[DAY_MS, 2 * DAY_MS]]
    )
    unknown = [{"start_ms": 0, "end_ms": DAY_MS, "reason": "BTCUSDT: no funding rate"}] * 2
    assert "<span>funding, 2 rates unknown</span>" in render(holes=unknown)
    synthetic = make_record()["data"][0] | {"source": "synthetic, seed 7"}
    assert "SYNTHETIC" in render(data=[synthetic])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trades": 0}, "No trade was made"),
        ({"trades": 0, "open_trades": 1, "net": 3.0}, "No trade was closed"),
        ({"net": -3.0, "gross": -1.0}, "even before costs"),
        ({"net": 3.0, "sharpe_low": -0.1}, "may be luck"),
        ({"net": 3.0, "sharpe_low": None}, "may be luck"),
        ({"net": 3.0, "sharpe_low": 0.4}, "above zero"),
    ],
)
def test_verdicts_are_honest(changes: dict[str, Any], words: str) -> None:
    assert words in verdict(FIGURES | changes)


def test_long_lines_keep_their_extremes() -> None:
    values = np.zeros(100_000)
    values[77_777], values[12_345] = -5.0, 9.0
    rows = thin(values)
    assert len(rows) <= MOST_POINTS
    assert {0, 12_345, 77_777, 99_999} <= set(rows.tolist())
    assert thin(values[:10]).tolist() == list(range(10))


def test_many_candles_are_joined_and_few_stay() -> None:
    minutes = np.arange(10_000, dtype=np.int64) * 60_000
    close = np.sin(minutes / 7e5)
    candles = {"open_ms": minutes, "open": close, "high": close + 1, "low": close - 1, "close": close}
    joined, rows = join_candles(candles)
    assert len(rows) <= MOST_CANDLES + 1
    assert joined["high"].max() == candles["high"].max()
    assert joined["low"].min() == candles["low"].min()
    assert (joined["open"][0], joined["close"][-1]) == (close[0], close[-1])
    few, every = join_candles({name: column[:50] for name, column in candles.items()})
    assert len(every) == 50
    assert few["close"].tolist() == close[:50].tolist()


def test_months_stand_in_their_cells_and_costs_add_up() -> None:
    months = draw_months({"2025-05": 0.1, "2026-01": -0.2})
    heat = months["data"][0]
    assert heat["y"] == ["2026", "2025"]
    assert (heat["z"][0][0], heat["z"][1][4], heat["z"][0][1]) == (-0.2, 0.1, None)
    bars = draw_costs(1.0, 4.0, -0.5, -3.5)["data"][0]
    assert sum(bars["y"][:3]) == bars["y"][3]
    # A gross profit is drawn as a gain, whatever costs make of it.
    assert bars["measure"] == ["relative", "relative", "relative", "total"]


def test_every_colour_of_the_charts_has_one_for_a_dark_screen() -> None:
    """What is left as it is must be told apart on both: the lines of a strategy."""
    drawn = json.dumps(figures_of(render()))
    kept = set(re.findall("#[0-9a-f]{6}", drawn)) - set(BANDS)
    assert kept == set(json.loads(re.search(r"dark=({.*?});", SCRIPT)[1]))  # type: ignore[index]


def test_a_bin_of_profits_is_all_gain_or_all_loss() -> None:
    profits = np.array([-3.1, -0.2, 0.05, 0.1, 7.7])
    bars = draw_profits(profits)["data"][0]
    for middle, width, count in zip(bars["x"], bars["width"], bars["y"], strict=True):
        inside = profits[np.abs(profits - middle) < width / 2 / 0.94]
        assert (len(inside), len(set(inside > 0)) <= 1) == (count, True)
    assert sum(bars["y"]) == 5
    for few in ([], [0.0], [2.0], [-2.0]):
        assert sum(draw_profits(np.array(few))["data"][0]["y"]) == len(few)


def test_nothing_has_no_sign_and_no_fall() -> None:
    assert [percent(value) for value in (None, 0.0, -0.00001, 0.012, -0.5)] == [
        "–", "0.00%", "0.00%", "+1.20%", "−50.00%",
    ]  # fmt: skip
    flat = draw_equity(OPEN_MS, np.full(ROWS, 1_000.0), CLOSE, 1_000.0)
    assert flat["layout"]["yaxis2"]["range"] == [-0.01, 0.0]


def test_candles_shine_through_a_throng_of_marks() -> None:
    candles = dict.fromkeys(("open", "high", "low", "close"), CLOSE) | {"open_ms": OPEN_MS}
    for count, opacity in ((10, 1.0), (2_000, 0.4)):
        trades: dict[str, list[Any]] = {
            "entry_ts": [0] * count, "exit_ts": [DAY_MS] * count, "side": ["long"] * count,
            "entry": [100.0] * count, "exit": [99.0] * count,
            "why_in": ["up"] * count, "why_out": ["stop"] * count,
        }  # fmt: skip
        drawn = draw_trades(candles, trades, {})
        assert drawn["data"][1]["marker"]["opacity"] == opacity
        first, last = (str(one) for one in OPEN_MS[[0, -1]].astype("datetime64[ms]"))
        assert drawn["layout"]["xaxis"]["range"] == [first, last]
