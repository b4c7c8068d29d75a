"""Writes one store until told to stop, or reads it until it saw enough batches.

`python -m … writer|reader FOLDER STOP_FILE BATCHES`. Every batch of the writer has one number in every row,
across the end of a month; a read that shows two numbers, or other rows than a whole batch, is torn.
"""

import asyncio
import sys
from pathlib import Path

from qmtl.runtime.io.embedded_store import EmbeddedStore
from tests.contracts.history_rows import MINUTES, MONTH_END, minutes

ROWS = 400
START = MONTH_END - ROWS * 30


async def write(store: EmbeddedStore, stop: Path) -> str:
    number = 0
    while not stop.exists():
        number += 1
        rows = minutes(START, ROWS).with_columns(volume=float(number) * minutes(START, ROWS)["volume"])
        await store.write(MINUTES, rows, covered=[(START, START + 60 * ROWS)])
    return f"{number} batches"


async def read(store: EmbeddedStore, wanted: int) -> str:
    reads = torn = 0
    seen: set[float] = set()
    while len(seen) < wanted:
        # Seven processes that never rest would leave the writer no processor.
        await asyncio.sleep(0.01)
        frame = await store.read(MINUTES, 0, 2**33)
        if frame.height:
            reads += 1
            numbers = set(frame["volume"].to_list())
            seen |= numbers
            torn += len(numbers) != 1 or frame.height != ROWS
            torn += [tuple(span) for span in await store.coverage(MINUTES)] != [
                (START, START + 60 * ROWS, "rows")
            ]
    return f"{len(seen)} batches {reads} reads {torn} torn"


async def main(role: str, folder: str, stop: str, batches: str) -> None:
    store = EmbeddedStore(folder, read_only=role == "reader")
    print(await (write(store, Path(stop)) if role == "writer" else read(store, int(batches))))
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
