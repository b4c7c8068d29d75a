"""A paper exchange in a process of its own that prints trades at a rate: arguments are rate and seconds.

It says its address, waits until somebody listens, and prints; a line ends it.
"""

import asyncio
import sys
import time

from qmtl.engine.clock import SystemClock
from qmtl.services.paper_exchange import stream_hub
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.market import Trade
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig

SLICES = 100
"""Batches a second."""


async def main() -> None:
    rate, seconds = int(sys.argv[1]), float(sys.argv[2])
    # A reader on a busy machine may fall behind: what it loses is counted, and it is not expelled.
    stream_hub._BACKLOG = round(rate * seconds)
    config = PaperExchangeConfig(is_manual=True, markets=(MarketSettings(history=10),))
    server = PaperExchange(config, SystemClock())
    print((await server.start())["rest"], flush=True)
    while not any(hub.names_of("btcusdt") for hub in server.exchange.hubs):
        await asyncio.sleep(1 / SLICES)
    began, total, done = time.monotonic(), round(rate * seconds), 0
    while done < total:
        due = min(total, round((time.monotonic() - began) * rate))
        now_ms = time.time_ns() // 1_000_000
        trades = [Trade(n, now_ms, 100.0 + n % 50, 0.25, n % 2 == 0) for n in range(done, due)]
        if trades:
            server.exchange.print_trades("BTCUSDT", trades)
            done = due
        await asyncio.sleep(1 / SLICES)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await server.stop()


asyncio.run(main())
