"""A run as one self-contained page: charts, figures, what was assumed, and how to do it again."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt

from qmtl.engine.statistics import DAY, HOUR, monthly_returns, period_ends, returns_of
from qmtl.engine.tearsheet_charts import (
    draw_costs,
    draw_equity,
    draw_exposure,
    draw_months,
    draw_profits,
    draw_trades,
)
from qmtl.engine.tearsheet_style import SCRIPT, STYLE

Columns = Mapping[str, npt.NDArray[Any]]
"""One row a bar: open_ms, open, high, low, close, equity, notional (all that is held); the rest are lines."""
_OWN = ("open_ms", "open", "high", "low", "close", "equity", "notional")
_DEAR = 100.0
"""Prices below it need more than two decimals."""
HOLES_SHOWN = 20
TRADES_SHOWN = 12


def render_tearsheet(
    record: Mapping[str, Any], bars: Columns, trades: Mapping[str, Sequence[Any]], *, script: str
) -> str:
    """Return the page of one run.

    `record` is the run's `run.json`, `bars` one row a bar, `trades` one row a trade (closed ones first);
    `script` is plotly.js, put into the page so that it needs no network.
    """
    first = float(record["terms"]["wallet"])
    charts = _draw(record, bars, trades, first)
    markets = ", ".join(one["symbol"] for one in record["data"])
    title = f"{record['strategy']['class']} · {markets} {record['data'][0]['interval']}"
    body = [
        _header(record, title),
        _tiles(record, first),
        _section("Equity and drawdown", "equity"),
        _section(" · ".join(filter(None, ("Trades", _first_of(record)))), "trades"),
        _pair(_section("From gross to net", "costs"), _section("Profits of trades", "profits")),
        _section("Months", "months"),
        _section("Exposure", "exposure"),
        _extremes(trades, has_symbols=len(record["data"]) > 1),
        _pair(_data(record), _terms(record)),
        _again(record),
    ]
    data = json.dumps(charts, separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main>{''.join(body)}</main>"
        f'<script type="application/json" id="figures">{data}</script>'
        f"<script>{script}</script><script>{SCRIPT}</script></body></html>\n"
    )


def _draw(
    record: Mapping[str, Any], bars: Columns, trades: Mapping[str, Sequence[Any]], first: float
) -> dict[str, Any]:
    figures, open_ms, close = record["figures"], bars["open_ms"], bars["close"]
    equity = bars["equity"]
    period = DAY if figures.get("period") == DAY.name else HOUR
    rows = period_ends(open_ms, period)
    months = monthly_returns(open_ms[rows], returns_of(equity[rows], first))
    lines = {name: values for name, values in bars.items() if name not in _OWN}
    profits = np.array(
        [float(pnl) for pnl, when in zip(trades["pnl"], trades["exit_ts"], strict=True) if when]
    )
    # Of several symbols the first may begin later than the run: until then it has no close.
    traded = close[np.isfinite(close)]
    held = first * close / (traded[0] if traded.size else 1.0)
    shares = np.divide(bars["notional"], equity, out=np.zeros(len(equity)), where=equity > 0)
    return {
        "equity": draw_equity(open_ms, equity, held, first, of=_first_of(record)),
        "trades": draw_trades(bars, _trades_of(record, trades), lines),
        "costs": draw_costs(figures["gross"], figures["fees"], figures["funding"], figures["net"]),
        "profits": draw_profits(profits),
        "months": draw_months(months),
        "exposure": draw_exposure(open_ms, shares),
    }


def _first_of(record: Mapping[str, Any]) -> str:
    """The symbol of the chart of prices, where there are several; empty where there is one."""
    return str(record["data"][0]["symbol"]) if len(record["data"]) > 1 else ""


def _trades_of(record: Mapping[str, Any], trades: Mapping[str, Sequence[Any]]) -> Mapping[str, Sequence[Any]]:
    # Marks of other symbols would lie far from these prices.
    first = _first_of(record)
    if not first:
        return trades
    rows = [row for row, symbol in enumerate(trades["symbol"]) if symbol == first]
    return {name: [values[row] for row in rows] for name, values in trades.items()}


# --- pieces of the page ----------------------------------------------------------------------------


def verdict(figures: Mapping[str, Any]) -> str:
    """Say in one sentence what the run came to, after costs."""
    net, gross, trades = figures["net"], figures["gross"], figures["trades"]
    low, high = figures.get("sharpe_low"), figures.get("sharpe_high")
    if not trades:
        open_trades = figures.get("open_trades")
        return "No trade was closed: this is an open position's." if open_trades else "No trade was made."
    if net <= 0:
        return "Costs eat the profit: it loses after them." if gross > 0 else "It loses, even before costs."
    if low is None or high is None or low <= 0:
        return "It gains after costs, but the interval of its Sharpe ratio holds zero: that may be luck."
    return "It gains after costs, and the interval of its Sharpe ratio is above zero."


def _header(record: Mapping[str, Any], title: str) -> str:
    data, figures = record["data"], record["figures"]
    rows, expected = (sum(one[name] for one in data) for name in ("rows", "expected"))
    start_ms, end_ms = min(one["start_ms"] for one in data), max(one["end_ms"] for one in data)
    span = f"{_day(start_ms)} to {_day(end_ms)}"
    share = 1.0 if rows == expected else min(0.9999, rows / expected)
    sources = ", ".join(dict.fromkeys(str(one["source"]) for one in data))
    flags = ""
    if "synthetic" in sources.lower():
        flags += '<p class="flag"><b>SYNTHETIC</b> · these candles were made up, no market did this.</p>'
    other = record.get("other_path")
    if other:
        flags += (
            f'<p class="flag"><b>INTRABAR ASSUMED</b> · a candle does not tell its path. This is '
            f"{record['path']}; {other['path']} came to {percent(other['figures']['net_pct'])} net.</p>"
        )
    if record.get("trades_over_holes"):
        flags += f'<p class="flag"><b>{record["trades_over_holes"]:,} trades</b> span missing candles.</p>'
    tone = "gain" if figures["net"] > 0 else "loss" if figures["net"] < 0 else ""
    return (
        f"<header><h1>{escape(title)}</h1>"
        f"<p>{escape(span)} · {rows:,} bars ({share:.2%}) · {escape(sources)}</p></header>"
        f'<p class="verdict"><span class="{tone}">{percent(figures["net_pct"])} net.</span> '
        f"{escape(verdict(figures))}</p>{flags}"
    )


def percent(value: float | None) -> str:
    """Return a fraction as percent with its sign, a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:+.2%}".replace("-", "−")
    # What rounds to nothing has no sign.
    return text.lstrip("+−") if float(text[1:-1]) == 0 else text


def _tiles(record: Mapping[str, Any], first: float) -> str:
    figures = record["figures"]
    unknown = sum(str(hole["reason"]).endswith("no funding rate") for hole in record["holes"])

    def plain(value: float | None, digits: int = 2) -> str:
        return "–" if value is None else f"{value:,.{digits}f}".replace("-", "−")

    between = (
        f"Sharpe · 95 %: {plain(figures.get('sharpe_low'), 1)} to {plain(figures.get('sharpe_high'), 1)}"
    )
    tiles = [
        (percent(figures["net_pct"]), f"net of {first:,.0f}"),
        (percent(figures["gross"] / first), "gross, before costs"),
        (percent(-figures["fees"] / first), "fees"),
        (
            percent(figures["funding"] / first),
            f"funding, {unknown:,} rates unknown" if unknown else "funding",
        ),
        (plain(figures.get("sharpe"), 1), "Sharpe" if figures.get("sharpe") is None else between),
        (plain(figures.get("sortino"), 1), "Sortino"),
        (plain(figures.get("calmar"), 1), "Calmar"),
        (percent(-figures["max_drawdown_bars"]), "deepest drawdown"),
        (f"{figures['trades']:,}", "closed trades"),
        (percent(figures.get("win_rate")).lstrip("+"), "of them won"),
        (plain(figures.get("profit_factor")), "profit factor"),
        (plain(figures.get("expectancy")), "expectancy, a trade"),
        (percent(figures.get("exposure")).lstrip("+"), "of bars in a position"),
        (plain(figures["turnover"] / first, 0), "times the balance traded"),
    ]
    shown = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    )
    return f'<div class="tiles">{shown}</div>'


def _section(title: str, chart: str) -> str:
    # Twelve months do not fit a phone: they scroll.
    place = f'<div id="{chart}"></div>'
    held = f'<div class="scroll">{place}</div>' if chart == "months" else place
    return f"<section><h2>{escape(title)}</h2>{held}</section>"


def _pair(left: str, right: str) -> str:
    return f'<div class="two">{left}{right}</div>'


def _extremes(trades: Mapping[str, Sequence[Any]], *, has_symbols: bool) -> str:
    order = sorted(range(len(trades["pnl"])), key=lambda row: float(trades["pnl"][row]))
    half = TRADES_SHOWN // 2
    shown = order if len(order) <= TRADES_SHOWN else [*order[:half], *order[-half:]]
    sides = trades["side"]
    if has_symbols:
        sides = [f"{symbol} {side}" for symbol, side in zip(trades["symbol"], sides, strict=True)]
    rows = "".join(
        f'<tr><td class="t">{_minute(trades["entry_ts"][row])}</td>'
        f"<td>{escape(sides[row])}</td>"
        f'<td class="n">{float(trades["quantity"][row]):g}</td>'
        f'<td class="n">{_price(trades["entry"][row])}</td><td class="n">{_price(trades["exit"][row])}</td>'
        f'<td class="n">{float(trades["fee"][row]):,.2f}</td>'
        f'<td class="n">{float(trades["funding"][row]):,.2f}</td>'
        f'<td class="n {"gain" if float(trades["pnl"][row]) > 0 else "loss"}">'
        f"{_signed(float(trades['pnl'][row]))}</td>"
        f"<td>{escape(str(trades['why_in'][row]))}</td><td>{escape(str(trades['why_out'][row]))}</td></tr>"
        for row in reversed(shown)
    )
    heads = (
        "entry (UTC)",
        "side",
        "quantity",
        "entry",
        "exit",
        "fee",
        "funding",
        "profit",
        "why in",
        "why out",
    )
    head = "".join(f"<th{' class=n' if 2 <= at <= 7 else ''}>{name}</th>" for at, name in enumerate(heads))
    note = "" if len(order) <= TRADES_SHOWN else f" of {len(order):,}; all of them are in trades.parquet"
    return (
        f'<section><h2>Best and worst trades{note}</h2><div class="scroll trades"><table>'
        f"<tr>{head}</tr>{rows}</table></div></section>"
    )


def _data(record: Mapping[str, Any]) -> str:
    tables = "".join(
        _rows(
            {
                "symbol": f"{one['symbol']} {one['interval']}",
                "source": one["source"],
                "range": f"{_minute(one['start_ms'])} to {_minute(one['end_ms'])}",
                "bars": f"{one['rows']:,} of {one['expected']:,}",
                "fingerprint": one["fingerprint"],
            }
        )
        for one in record["data"]
    )
    cuts = {
        f"cut {at}": f"{_minute(start)} to {_minute(end)}"
        for at, (start, end) in enumerate(record["excluded"], 1)
    }
    tables += f"<h2>Excluded</h2>{_rows(cuts)}" if cuts else ""
    holes = record["holes"]
    listed = "".join(
        f"<tr><td>{_minute(hole['start_ms'])}</td><td>{_minute(hole['end_ms'])}</td>"
        f"<td>{escape(str(hole['reason']))}</td></tr>"
        for hole in holes[:HOLES_SHOWN]
    )
    table = f"<table><tr><th>from</th><th>to</th><th>why</th></tr>{listed}</table>" if listed else ""
    more = f"<p>… and {len(holes) - HOLES_SHOWN:,} more in run.json</p>" if len(holes) > HOLES_SHOWN else ""
    return f"<section><h2>Data</h2>{tables}<h2>Holes: {len(holes):,}</h2>{table}{more}</section>"


def _terms(record: Mapping[str, Any]) -> str:
    terms = record["terms"]
    listed = "".join(f"<li>{escape(str(one))}</li>" for one in terms.get("assumptions", ()))
    money = {
        "first balance": f"{float(terms['wallet']):,.10g} {terms['asset']}",
        "size": record["sizing"],
        "costs": record["costs"],
        "fills": "the next bar's open" if record["fill_model"] == "next_open" else "the close that decided",
        "leverage": f"{terms['leverage']}, {terms['margin_mode']}",
    }
    return (
        f"<section><h2>Parameters</h2>{_rows(dict(record['params']) or {'none': ''})}"
        f"<h2>Money and fills</h2>{_rows(money)}<ul>{listed}</ul></section>"
    )


def _again(record: Mapping[str, Any]) -> str:
    strategy = record["strategy"]
    made = {
        "strategy": f"{strategy['label']} ({strategy['class']}), sha256 {strategy['sha256']}",
        "seed": record["seed"],
        "trades": f"sha256 {record['trades_hash']}",
        "versions": ", ".join(f"{name} {version}" for name, version in record["versions"].items()),
        "command": " ".join(record["command"]),
    }
    return (
        f"<section><h2>Do it again</h2><p><code>qmtl reproduce {escape(str(record['id']))}</code></p>"
        f"{_rows(made)}</section><footer>Made by qmtl. A backtest is a story about the past; nothing here is "
        "financial advice.</footer>"
    )


def _rows(values: Mapping[str, Any]) -> str:
    lines = "".join(
        f"<tr><th>{escape(str(name))}</th><td>{escape(str(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{lines}</table>"


def _signed(value: float) -> str:
    return f"{value:+,.2f}".replace("-", "−")


def _price(value: float | None) -> str:
    if value is None:
        return "open"
    return f"{value:,.2f}" if value >= _DEAR else f"{value:,.6g}"


def _minute(ts_ms: int) -> str:
    return datetime.fromtimestamp(ts_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _day(ts_ms: int) -> str:
    return _minute(ts_ms)[:10]
