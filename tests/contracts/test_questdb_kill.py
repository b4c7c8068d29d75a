"""QuestDB is killed anywhere in a backfill: coverage claims no unstored cell, and the end is the same."""

import asyncio
import random
from collections.abc import Callable

import pytest

from qmtl.runtime.sdk.history import HistoryStore, StoreError
from tests.contracts import backfill_child as work
from tests.contracts.store_places import QuestDBPlace
from tests.contracts.test_kill import check, check_end
from tests.servers import QuestDBServer

LONGEST_S = 1.5


async def is_finished(store: HistoryStore) -> bool:
    """Backfill until it is done (True) or the server is gone (False)."""
    try:
        await work.backfill(store)
    except StoreError:  # unreachable, or gone in the middle of an answer
        return False
    return True


@pytest.mark.chaos
@pytest.mark.timeout(3_600)
async def test_26_kill_the_server_anywhere(
    request: pytest.FixtureRequest, questdb_server: QuestDBServer, count: Callable[[int, int], int]
) -> None:
    place, dice = QuestDBPlace(request), random.Random(26)
    kills = covered = 0
    while kills < count(3, 200):
        store = place.open()
        backfill = asyncio.create_task(is_finished(store))
        await asyncio.wait([backfill], timeout=dice.uniform(0.05, LONGEST_S))
        await asyncio.to_thread(questdb_server.kill)
        kills += 1
        is_done = await backfill
        await store.aclose()
        await asyncio.to_thread(questdb_server.start)
        store = place.open()
        now_covered = await check(store)
        assert now_covered >= covered, "coverage was lost"
        covered = now_covered
        await store.aclose()
        assert await place.faults(is_finished=False) == []
        if is_done:
            await check_end(place)
            place.renew()
            covered = 0
    await check_end(place)
