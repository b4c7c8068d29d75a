"""The charts of a tearsheet, as plotly figures of plain data.

Every function takes arrays and returns a figure as a dictionary (`data`, `layout`), which the page hands to
plotly.js. Times are UTC milliseconds; money is in the settle currency; shares are fractions.
"""

from collections.abc import Mapping, Sequence
from math import isnan
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Times = npt.NDArray[np.int64]
Figure = dict[str, Any]

INK, GRID, PAPER = "#1d2733", "#e6eaf0", "#ffffff"
GAIN, LOSS, ACCENT, MUTED = "#157f5b", "#c2402f", "#2457c5", "#8793a3"
PLAIN = "#f7f8fa"
"""Between gain and loss."""
BANDS = ("#b07d1a", "#7a4fb5", "#2b8a9e", "#9a5a2b")
MOST_POINTS = 2_400
"""A line of more points is drawn by the extremes of as many buckets: nothing that was seen disappears."""
MOST_CANDLES = 1_200
CROWD = 200
"""From so many trades on their marks get smaller."""
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
CANDLES_MS = tuple(
    minutes * 60_000 for minutes in (1, 3, 5, 15, 30, 60, 120, 240, 480, 720, 1_440, 4_320, 10_080)
)


def draw_equity(open_ms: Times, equity: Floats, benchmark: Floats, first: float, *, of: str = "") -> Figure:
    """Draw equity beside holding the market (`of`: which one), and below it the fall from its peak."""
    peak = np.maximum.accumulate(np.maximum(equity, first))
    fall = equity / peak - 1.0
    rows = thin(equity)
    data = [
        _line(open_ms[rows], benchmark[rows], f"buy and hold {of}".rstrip(), MUTED, width=1, dash="dot"),
        _line(open_ms[rows], equity[rows], "equity", ACCENT),
        {
            **_line(open_ms[rows], fall[rows], "drawdown", LOSS, width=1),
            "fill": "tozeroy",
            "fillcolor": "rgba(194,64,47,0.18)",
            "yaxis": "y2",
        },
    ]
    layout = _layout(420, yaxis={**_MONEY, "domain": [0.34, 1.0], "title": _title("equity")})
    layout["yaxis2"] = {**_AXIS, "domain": [0.0, 0.27], "tickformat": ".1%", "title": _title("drawdown")}
    if not np.any(fall < 0):
        layout["yaxis2"] |= {"range": [-0.01, 0.0]}
    layout["xaxis"] |= {"anchor": "y2"}
    return {"data": data, "layout": layout}


def draw_trades(
    candles: Mapping[str, npt.NDArray[Any]],
    trades: Mapping[str, Sequence[Any]],
    lines: Mapping[str, Floats],
) -> Figure:
    """Draw candles with every entry and exit on them, and the strategy's own lines.

    `candles` has open_ms, open, high, low, close; `lines` are one value a candle. More than MOST_CANDLES are
    joined to longer ones first, and the lines show the last value in each.
    """
    shown, rows = join_candles(candles)
    data: list[dict[str, Any]] = [
        {
            "type": "candlestick",
            "name": "price",
            "x": _times(shown["open_ms"]),
            **{name: _plain(shown[name]) for name in ("open", "high", "low", "close")},
            "increasing": {"line": {"color": GAIN, "width": 1}},
            "decreasing": {"line": {"color": LOSS, "width": 1}},
            "showlegend": False,
        }
    ]
    for (name, values), color in zip(lines.items(), BANDS, strict=False):
        data.append(_line(shown["open_ms"], values[rows], name, color, width=1))
    data += _marks(trades)
    layout = _layout(460, yaxis={**_MONEY, "title": _title("price")})
    # From the first candle to the last, as the chart of equity above: marks would widen it.
    ends = _times(candles["open_ms"][[0, -1]])
    layout["xaxis"] |= {"rangeslider": {"visible": False}, "range": ends}
    return {"data": data, "layout": layout}


def draw_months(months: Mapping[str, float]) -> Figure:
    """Draw the return of each calendar month ("2025-05") as a heat map of years and months."""
    years = sorted({month[:4] for month in months}, reverse=True)
    grid = [[months.get(f"{year}-{number:02d}") for number in range(1, 13)] for year in years]
    most = max((abs(value) for value in months.values()), default=0.0) or 0.01
    data = [
        {
            "type": "heatmap",
            "x": list(MONTHS),
            "y": years,
            "z": grid,
            "zmin": -most,
            "zmax": most,
            "colorscale": [[0, LOSS], [0.5, PLAIN], [1, GAIN]],
            "text": [
                ["" if value is None else f"{value:+.1%}".replace("-", "−") for value in row] for row in grid
            ],
            "texttemplate": "%{text}",
            "hovertemplate": "%{y} %{x}: %{text}<extra></extra>",
            "showscale": False,
            "xgap": 3,
            "ygap": 3,
        }
    ]
    layout = _layout(110 + 44 * len(years), yaxis={"type": "category", "showgrid": False})
    layout["xaxis"] |= {"side": "top", "showgrid": False, "type": "category"}
    return {"data": data, "layout": layout}


def draw_profits(profits: Floats) -> Figure:
    """Draw how the profits of closed trades are spread."""
    counts, edges = np.histogram(profits, bins=_edges(profits))
    middles = (edges[:-1] + edges[1:]) / 2
    data = [
        {
            "type": "bar",
            "x": middles.tolist(),
            "y": counts.tolist(),
            "width": (np.diff(edges) * 0.94).tolist(),
            "marker": {"color": [GAIN if middle > 0 else LOSS for middle in middles]},
            "hovertemplate": "%{x:.2f}: %{y} trades<extra></extra>",
        }
    ]
    layout = _layout(300, yaxis={"title": _title("trades")})
    layout["xaxis"] = {
        **_AXIS,
        "title": _title("profit of a trade"),
        "zeroline": True,
        "zerolinecolor": INK,
    }
    return {"data": data, "layout": layout}


def _edges(profits: Floats) -> Floats:
    """Return the edges of bins of one width; zero is one of them, so that a bin is all gain or all loss."""
    if not profits.size:
        return np.array([-1.0, 0.0, 1.0])
    bins = int(np.clip(np.sqrt(profits.size) * 2, 10, 80))
    low, high = min(float(profits.min()), 0.0), max(float(profits.max()), 0.0)
    width = (high - low) / bins or 1.0
    first = np.floor(low / width)
    edges = np.arange(first, max(np.ceil(high / width), first + 1) + 1) * width
    # A product may fall short of what it was divided from by its last bit.
    edges[0], edges[-1] = min(edges[0], low), max(edges[-1], high)
    return edges


def draw_exposure(open_ms: Times, shares: Floats) -> Figure:
    """Draw the position as a share of equity, long above and short below zero."""
    rows = thin(shares)
    data = [
        {
            **_line(open_ms[rows], shares[rows], "exposure", ACCENT, width=1, shape="hv"),
            "fill": "tozeroy",
            "fillcolor": "rgba(36,87,197,0.15)",
        }
    ]
    return {
        "data": data,
        "layout": _layout(240, yaxis={"tickformat": ".0%", "title": _title("share of equity")}),
    }


def draw_costs(gross: float, fees: float, funding: float, net: float) -> Figure:
    """Draw the way from gross to net; `fees` is what was paid, `funding` negative where it was paid."""
    steps = [gross, -fees, funding, net]
    data = [
        {
            "type": "waterfall",
            "x": ["gross", "fees", "funding", "net"],
            "y": steps,
            "measure": ["relative", "relative", "relative", "total"],
            "text": [f"{step:+,.2f}".replace("-", "−") for step in steps],
            "textposition": "outside",
            "cliponaxis": False,
            "connector": {"line": {"color": MUTED, "width": 1}},
            "increasing": {"marker": {"color": GAIN}},
            "decreasing": {"marker": {"color": LOSS}},
            "totals": {"marker": {"color": GAIN if net > 0 else LOSS}},
            "hovertemplate": "%{x}: %{y:,.2f}<extra></extra>",
        }
    ]
    layout = _layout(300, yaxis={**_ZERO, **_MONEY})
    layout["xaxis"] = {**_AXIS, "showgrid": False}
    return {"data": data, "layout": layout}


# --- what is drawn of long series ------------------------------------------------------------------


def thin(values: Floats, most: int = MOST_POINTS) -> Times:
    """Return the rows to draw: all, or the first, lowest, highest and last of each of `most` / 4 buckets."""
    count = values.size
    if count <= most:
        return np.arange(count)
    edges = np.linspace(0, count, most // 4 + 1).astype(np.int64)
    rows: set[int] = set()
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = values[start:end]
        if np.all(np.isnan(part)):
            rows.add(start)
            continue
        rows |= {start, start + int(np.nanargmin(part)), start + int(np.nanargmax(part)), end - 1}
    return np.array(sorted(rows), dtype=np.int64)


def join_candles(candles: Mapping[str, npt.NDArray[Any]]) -> tuple[dict[str, npt.NDArray[Any]], Times]:
    """Return candles few enough to draw, and the last row that went into each."""
    open_ms: Times = candles["open_ms"]
    span = int(open_ms[-1] - open_ms[0]) if open_ms.size else 0
    length = next((one for one in CANDLES_MS if span / one <= MOST_CANDLES), CANDLES_MS[-1])
    if open_ms.size <= MOST_CANDLES:
        return dict(candles), np.arange(open_ms.size)
    number = open_ms // length
    first = np.flatnonzero(np.append(True, number[1:] != number[:-1]))
    last = np.append(first[1:], open_ms.size) - 1
    return {
        "open_ms": number[first] * length,
        "open": candles["open"][first],
        "high": np.maximum.reduceat(candles["high"], first),
        "low": np.minimum.reduceat(candles["low"], first),
        "close": candles["close"][last],
    }, last


# --- pieces ----------------------------------------------------------------------------------------

_ZERO: dict[str, Any] = {"zeroline": True, "zerolinecolor": INK}
_MONEY: dict[str, Any] = {"tickformat": ",~r", "hoverformat": ",.2f"}
"""Whole amounts: 9,900 and 10,000, where plotly would say 9.9k and 10k."""
_AXIS: dict[str, Any] = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True}


def _title(text: str) -> dict[str, Any]:
    # With a distance of its own a title makes room: without one it lies on wide numbers.
    return {"text": text, "standoff": 8}


def _layout(height: int, *, yaxis: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "height": height,
        "margin": {"l": 60, "r": 16, "t": 24, "b": 36},
        "paper_bgcolor": PAPER,
        "plot_bgcolor": PAPER,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": INK},
        "legend": {"orientation": "h", "y": 1.01, "yanchor": "bottom", "x": 0, "itemsizing": "constant"},
        "hovermode": "x unified",
        "xaxis": {**_AXIS, "type": "date"},
        "yaxis": {**_AXIS, **yaxis},
    }


def _times(open_ms: Times) -> list[str]:
    # Text that says UTC: numbers would be shown in the reader's own zone.
    return [str(one) for one in open_ms.astype("datetime64[ms]")]


def _plain(values: Floats) -> list[float | None]:
    # JSON knows no NaN: a gap is None.
    return [None if isnan(value) else value for value in values.tolist()]


def _line(
    open_ms: Times,
    values: Floats,
    name: str,
    color: str,
    *,
    width: float = 1.6,
    dash: str = "solid",
    shape: str = "linear",
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": _times(open_ms),
        "y": _plain(values),
        "line": {"color": color, "width": width, "dash": dash, "shape": shape},
    }


def _marks(trades: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    kinds = (
        ("long", "entry_ts", "entry", "triangle-up", GAIN),
        ("short", "entry_ts", "entry", "triangle-down", LOSS),
        ("exit", "exit_ts", "exit", "x-thin", INK),
    )
    count = len(trades["side"])
    size = 8 if count <= CROWD else 5 if count <= 5 * CROWD else 3
    # In a throng the candles shine through.
    opacity, edge = (1.0, 1) if count <= 5 * CROWD else (0.4, 0)
    marks = []
    for name, when, price, symbol, color in kinds:
        rows = [
            row
            for row, side in enumerate(trades["side"])
            if name in {"exit", side} and trades[when][row] is not None
        ]
        why = trades["why_out" if name == "exit" else "why_in"]
        marks.append(
            {
                "type": "scattergl",
                "mode": "markers",
                "name": f"{name} ({len(rows):,})",
                "x": _times(np.array([trades[when][row] for row in rows], dtype=np.int64)),
                "y": [trades[price][row] for row in rows],
                "text": [why[row] for row in rows],
                "hovertemplate": "%{y:,.2f} %{text}<extra>" + name + "</extra>",
                "marker": {
                    "symbol": symbol,
                    "size": size,
                    "color": color,
                    "opacity": opacity,
                    "line": {"width": 1 if name == "exit" else edge, "color": color},
                },
                # Among many trades the exits hide the candles; a click on their name shows them.
                "visible": "legendonly" if name == "exit" and count > CROWD else True,
            }
        )
    return marks
