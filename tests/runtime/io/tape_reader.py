"""A live feed in a process of its own that counts the trades of tape_server.

Arguments: total, the count at which memory is first measured, patience in seconds. It says at the end, as a
JSON object, what came.
"""

import asyncio
import json
import sys
from pathlib import Path

from qmtl.runtime.io.ccxt_live_feed import CcxtProConfig, CcxtProLiveFeed

WORDS = Path("/proc/self/status")


def rss_kb() -> int:
    lines = WORDS.read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def main() -> None:
    total, first, patience_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    feed = CcxtProLiveFeed(CcxtProConfig(exchange="binance", symbols=["BTC/USDT"], mode="trades"))
    seen = bytearray(total)
    found = {"count": 0, "twice": 0, "out_of_order": 0, "rss_first_kb": 0, "rss_end_kb": 0}
    last_ms = 0

    async def read() -> None:
        nonlocal last_ms
        async for _, frame in feed.subscribe("trades:binance:BTC/USDT", 1):
            for name in frame["id"].to_list():
                number = int(name)
                found["twice"] += seen[number]
                seen[number] = 1
                found["count"] += 1
            times = frame["ts_ms"]
            found["out_of_order"] += int(times[0] < last_ms)
            last_ms = times[-1]
            if not found["rss_first_kb"] and found["count"] >= first:
                found["rss_first_kb"] = rss_kb()
            if found["count"] >= total:
                return

    await asyncio.wait({asyncio.create_task(read())}, timeout=patience_s)
    found["rss_end_kb"] = rss_kb()
    found["missing"] = total - sum(seen)
    await feed.aclose()
    print(json.dumps(found), flush=True)


asyncio.run(main())
