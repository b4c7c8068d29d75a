"""One process that asks for slots of a shared limiter for a while and prints when it got them.

Arguments: Redis address, key, tokens a second, burst. It says "ready", and is then told begin and end
in epoch seconds.
"""

import asyncio
import json
import sys
import time

from qmtl.runtime.io.rate_limiter import get_limiter


async def main() -> None:
    dsn, key = sys.argv[1:3]
    rate, burst = map(float, sys.argv[3:5])
    limiter = await get_limiter(
        key, redis_dsn=dsn, tokens_per_interval=rate, interval_ms=1000, burst_tokens=burst, scope="cluster"
    )
    # Connect before the others begin.
    await limiter.penalise(0.0)
    print("ready", flush=True)
    begin, end = map(float, sys.stdin.readline().split())
    await asyncio.sleep(max(0.0, begin - time.time()))
    grants = []
    while time.time() < end:
        async with limiter:
            grants.append(time.time())
    await limiter.aclose()
    print(json.dumps([grant for grant in grants if grant <= end]))


asyncio.run(main())
