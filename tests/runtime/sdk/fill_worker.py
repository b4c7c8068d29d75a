"""One worker of several that need the same history: `fill_worker URL TOKEN_FILE STORE LOG SEED WINDOWS`.

Waits for a line on stdin, then fetches random windows of a day from a store it shares with the others. Every
range its exchange is asked for is a line of LOG.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from qmtl import logs
from qmtl.core.ranges import Range
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.history import FetchReport
from qmtl.runtime.sdk.seamless_data_provider import BackfillConfig, SeamlessDataProvider
from tests.runtime.sdk.history_rig import SERIES, T0, ScriptedFetcher, times

DAY_BARS = 1440


class LoggingFetcher(ScriptedFetcher):
    """An exchange that takes its time and writes down what it is asked for."""

    def __init__(self, log: Path) -> None:
        super().__init__(range(T0, T0 + 60 * DAY_BARS, 60))
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    async def fetch_report(self, start: int, end: int, *, node_id: str, interval: int) -> FetchReport:
        os.write(self.log, f"{start} {end}\n".encode())
        await asyncio.sleep(0.05)
        return await super().fetch_report(start, end, node_id=node_id, interval=interval)


def choose(seed: int, windows: int) -> list[Range]:
    """Windows that overlap each other and those of the other workers."""
    dice = random.Random(seed)
    pairs = [sorted(dice.sample(range(DAY_BARS + 1), 2)) for _ in range(windows)]
    return [(T0 + 60 * first, T0 + 60 * last) for first, last in pairs]


async def main() -> None:
    url, token_file, store, log, seed, windows = sys.argv[1:]
    logs.set_up(level="ERROR")
    provider = SeamlessDataProvider(
        store=EmbeddedStore(Path(store)),
        fetcher=LoggingFetcher(Path(log)),
        strategy="auto_backfill",
        coordinator=CoordinatorClient(url, token=f"file:{token_file}", timeout_s=30),
        backfill_config=BackfillConfig(window_bars=200),
    )
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    async with provider:
        chosen = choose(int(seed), int(windows))
        frames = await asyncio.gather(*(provider.fetch(*window, **SERIES) for window in chosen))
    for (start, end), frame in zip(chosen, frames, strict=True):
        assert times(frame) == list(range(start, end, 60)), (start, end)
    print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
