"""The published trader's way of handling one kline message: a DataFrame rebuilt per message.

Same roles as its pages describe: parse the JSON, make a row, update the frame of candles, compute the bands
and the realised volatility over the frame, take the booleans. It is the anchor of the live path's cost.
"""

import json

import numpy as np
import pandas as pd


class PandasTrader:
    """Collector and conditionals over one DataFrame, recomputed at every message."""

    def __init__(self) -> None:
        """Start without candles."""
        self.frame = pd.DataFrame(
            columns=["startTime", "open", "high", "low", "close", "volume"], dtype=float
        )

    def on_message(self, body: bytes) -> dict[str, bool]:
        """Take one raw kline message; return the booleans of the trading rules."""
        data = json.loads(body)["data"]
        kline = data["k"]
        row = {
            "startTime": int(kline["t"]),
            "open": float(kline["o"]),
            "high": float(kline["h"]),
            "low": float(kline["l"]),
            "close": float(kline["c"]),
            "volume": float(kline["v"]),
        }
        frame = self.frame
        if len(frame) and frame["startTime"].iloc[-1] == row["startTime"]:
            frame = frame.iloc[:-1]
        frame = pd.concat([frame, pd.DataFrame([row])], ignore_index=True).iloc[-500:]
        self.frame = frame
        return self._judge(frame, row["close"])

    def _judge(self, frame: pd.DataFrame, price: float) -> dict[str, bool]:
        closes = frame["close"].iloc[:-1]
        rolling = closes.rolling(20)
        mean, std = rolling.mean(), rolling.std()
        upper, lower = mean + std, mean - std
        upper_band, lower_band = mean + 2 * std, mean - 2 * std
        returns = pd.Series(np.log(closes / closes.shift(1)) ** 2)
        volatility = pd.Series(np.sqrt(returns.rolling(10).sum()))
        before = volatility.iloc[-21:-1]
        if len(closes) < 31:
            return {}
        return {
            "past_above": bool((closes.iloc[-5:] > upper.iloc[-5:]).any()),
            "past_above_band": bool((closes.iloc[-5:] > upper_band.iloc[-5:]).any()),
            "past_below": bool((closes.iloc[-5:] < lower.iloc[-5:]).any()),
            "past_below_band": bool((closes.iloc[-5:] < lower_band.iloc[-5:]).any()),
            "above": bool(price > upper.iloc[-1]),
            "below": bool(price < lower.iloc[-1]),
            "calm": bool(before.min() <= volatility.iloc[-1] <= before.max()),
        }
