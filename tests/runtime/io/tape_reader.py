"""A live feed in a process of its own that counts the trades of tape_server.

Arguments: total, seconds until memory is first measured, patience in seconds. It says "ready" once it
listens, and at the end a JSON object of what came.
"""

import asyncio
import json
import sys
import time
from pathlib import Path

from qmtl.runtime.io.ccxt_live_feed import CcxtProConfig, CcxtProLiveFeed

WORDS = Path("/proc/self/status")


def rss_kb() -> int:
    lines = WORDS.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def main() -> None:
    total, first_s, patience_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance", symbols=["BTC/USDT"], mode="trades"))
    seen = bytearray(total)
    found = {"count": 0, "twice": 0, "out_of_order": 0, "rss_first_kb": 0, "rss_end_kb": 0}
    last_ms = 0
    began = 0.0

    async def read() -> None:
        nonlocal last_ms, began
        async for _, frame in feed.subscribe("trades:binance:BTC/USDT", 1):
            began = began or time.monotonic()
            for name in frame["id"].to_list():
                number = int(name)
                found["twice"] += seen[number]
                seen[number] = 1
                found["count"] += 1
            times = frame["ts_ms"]
            found["out_of_order"] += int(times[0] < last_ms)
            last_ms = times[-1]
            if not found["rss_first_kb"] and time.monotonic() - began >= first_s:
                found["rss_first_kb"] = rss_kb()
            if found["count"] >= total:
                return

    task = asyncio.create_task(read())
    while not getattr(feed._source.api, "clients", None):
        await asyncio.sleep(0.05)
    # The subscription itself is on its way: the exchange begins a moment after it is told.
    await asyncio.sleep(1.0)
    print("ready", flush=True)
    await asyncio.wait({task}, timeout=patience_s)
    found["rss_end_kb"] = rss_kb()
    found["missing"] = total - sum(seen)
    await feed.aclose()
    print(json.dumps(found), flush=True)


asyncio.run(main())
