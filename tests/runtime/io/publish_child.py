"""Publishes one artifact and kills itself at a given call of the operating system."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from qmtl.engine.clock import VirtualClock
from qmtl.runtime.io.artifacts import ArtifactRegistrar

NODE = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"
START, ROWS, NOW = 1_706_745_600, 500, 1_800_000_000
CALLS = ("mkdir", "open", "write", "fsync", "replace", "link", "unlink", "close")


def bars(price: float) -> pl.DataFrame:
    ts = pl.Series("ts", range(START, START + 60 * ROWS, 60), pl.Int64)
    noise = pl.int_range(ROWS) * 0.001
    return pl.DataFrame([ts]).with_columns(
        open=price + noise, high=price + 9, low=price / 2, close=price + noise, volume=noise
    )


def publish(base: Path, price: float, second: int) -> str:
    registrar = ArtifactRegistrar(base, clock=VirtualClock(second * 1000))
    span = (START, START + 60 * ROWS)
    metadata = {"node_id": NODE, "interval": 60, "requested_range": span}
    return registrar.publish(bars(price), metadata).fingerprint


def die_at(point: int) -> list[str]:
    """Let every call through up to `point`; that one is not made, or half of it when it writes."""
    made: list[str] = []

    def watched(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*given: Any, **named: Any) -> Any:
            made.append(name)
            if len(made) == point:
                if name == "write":
                    call(given[0], given[1][: len(given[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return wrapper

    for name in CALLS:
        setattr(os, name, watched(name, getattr(os, name)))
    return made


if __name__ == "__main__":
    folder, price, second, point = sys.argv[1:]
    calls = die_at(int(point))
    publish(Path(folder), float(price), int(second))
    print(" ".join(calls))
