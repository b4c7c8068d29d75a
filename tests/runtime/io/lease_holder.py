"""A worker that holds a lease and writes under it: `lease_holder DSN STORE START END LEASE_MS PAUSE_S`.

Prints the lease's token and fence once its first row is stored, and writes again every PAUSE_S. When it lost
its lease it does what a worker does that does not know: writes under its fence, completes the lease; and
prints what became of both.
"""

import asyncio
import json
import sys
from pathlib import Path

from qmtl import logs
from qmtl.engine.clock import SystemClock
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.history import SeamlessError, StoreError
from qmtl.runtime.sdk.lease_keeper import LeaseKeeper, claim_kept
from tests.runtime.sdk.history_rig import KEY, bars


async def work(store: EmbeddedStore, keeper: LeaseKeeper, pause_s: float) -> None:
    """Write the range over and over."""
    lease = keeper.lease
    is_told = False
    while True:
        await store.write(
            KEY, bars([lease.start]), covered=[(lease.start, lease.start + 60)], fence=lease.fence
        )
        if not is_told:
            print(json.dumps({"token": lease.token, "fence": lease.fence}), flush=True)
            is_told = True
        await asyncio.sleep(pause_s)


async def come_late(store: EmbeddedStore, leases: LeaseStore, keeper: LeaseKeeper) -> dict[str, str]:
    lease = keeper.lease
    told = {}
    write = store.write(
        KEY, bars([lease.start], seed=9), covered=[(lease.start, lease.start + 60)], fence=lease.fence
    )
    for name, step in (("write", write), ("complete", leases.complete(lease.token))):
        try:
            await step
            told[name] = "taken"
        except (StoreError, SeamlessError) as error:
            told[name] = type(error).__name__
    return told


async def main() -> None:
    dsn, folder, start, end, lease_ms, pause_s = sys.argv[1:]
    logs.set_up()
    leases, store = LeaseStore(dsn), EmbeddedStore(Path(folder))
    _, [keeper] = await claim_kept(
        leases, KEY, int(start), int(end), "holder", int(lease_ms), clock=SystemClock()
    )
    try:
        await keeper.run(work(store, keeper, float(pause_s)))
    except SeamlessError:
        print(json.dumps(await come_late(store, leases, keeper)), flush=True)
    await leases.aclose()
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main())
