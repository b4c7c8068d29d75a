"""A trader in a process of its own that kills itself at the N-th passing of a named point.

Usage: python -m tests.simulation.trader_child CONFIG ORIGIN_MS T0_S SPEED [POINT N]. Prints `ready` once
entries may be taken. Without a point it runs until SIGINT.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from qmtl.config import load
from qmtl.core.event import IntentRecorded, OrderAccepted, OrderFilled
from qmtl.engine.clock import ScaledClock
from qmtl.engine.engine import Engine
from qmtl.engine.journal import SqliteJournal
from qmtl.runtime.io.binance_venue import BinanceFuturesVenue
from qmtl.trader.rt_trader import RealTimeTrader

POINTS = (
    "before_commit",
    "after_commit",
    "before_send",
    "after_send",
    "before_accept",
    "after_accept",
    "before_fill",
    "after_fill",
    "before_cancel",
    "after_cancel",
)


class Killer:
    """Counts passings of one point and ends the process, without a goodbye, at the N-th."""

    def __init__(self, point: str, count: int) -> None:
        self.point, self.left = point, count

    def passes(self, point: str) -> None:
        if point == self.point:
            self.left -= 1
            if self.left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


def plant(killer: Killer) -> None:
    """Put the killer's points around commit, send, cancel, and the folding of accept and fill."""
    has_intent = False
    append, commit = SqliteJournal.append, SqliteJournal.commit
    process = Engine.process
    submit, cancel = BinanceFuturesVenue.submit, BinanceFuturesVenue.cancel

    def planted_append(self: SqliteJournal, event: Any) -> None:
        nonlocal has_intent
        has_intent = has_intent or isinstance(event, IntentRecorded)
        append(self, event)

    def planted_commit(self: SqliteJournal) -> None:
        nonlocal has_intent
        counts, has_intent = has_intent, False
        if counts:
            killer.passes("before_commit")
        commit(self)
        if counts:
            killer.passes("after_commit")

    def planted_process(self: Engine, event: Any) -> Any:
        is_fill = isinstance(event, OrderFilled)
        name = "fill" if is_fill else "accept" if isinstance(event, OrderAccepted) else None
        if name is not None:
            killer.passes(f"before_{name}")
        commands = process(self, event)
        if name is not None:
            killer.passes(f"after_{name}")
        return commands

    def around(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        async def planted(self: BinanceFuturesVenue, order: Any) -> Any:
            killer.passes(f"before_{name}")
            answer = await call(self, order)
            killer.passes(f"after_{name}")
            return answer

        return planted

    SqliteJournal.append = planted_append  # type: ignore[method-assign]
    SqliteJournal.commit = planted_commit  # type: ignore[method-assign]
    Engine.process = planted_process  # type: ignore[method-assign]
    BinanceFuturesVenue.submit = around("send", submit)  # type: ignore[method-assign]
    BinanceFuturesVenue.cancel = around("cancel", cancel)  # type: ignore[method-assign]


async def main() -> None:
    """Trade until told or killed."""
    config, origin_ms, t0_s, speed = sys.argv[1:5]
    rate = float(speed)
    clock = ScaledClock(int(float(origin_ms) + (time.time() - float(t0_s)) * 1000 * rate), rate)
    if len(sys.argv) > 5:
        plant(Killer(sys.argv[5], int(sys.argv[6])))
    trader = RealTimeTrader(
        load(Path(config)), strategy="tests.simulation.restless:Restless", params={}, clock=clock
    )
    await trader.open()
    run = asyncio.create_task(trader.run())
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGINT, lambda: asyncio.ensure_future(trader.stop("interrupted"))
    )
    while not trader.desk.ready()[0] and not run.done():
        await asyncio.sleep(0.02)
    print("ready", flush=True)
    await run
    print(f"position {trader.engine.account.position('BTCUSDT').quantity}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
