"""Tables that a killed QuestDB leaves half-made, planted: a log that is missing or empty."""

import asyncio
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.io.questdb_link import QuestDBLink, parse_dsn, parse_http
from qmtl.runtime.io.questdb_tables import BARS, COVERAGE, create_statement
from qmtl.runtime.sdk.history import StoreError, StoreSchemaError
from tests.contracts.history_rows import MINUTES, MONTH_END, minutes, spans
from tests.servers import QuestDBServer

M = MONTH_END
DAMAGES: dict[str, Callable[[Path], object]] = {
    "no_log": lambda folder: (folder / "_txnlog").unlink(),
    "empty_log": lambda folder: (folder / "_txnlog").write_bytes(b""),
    "no_sequencer": shutil.rmtree,
}


def damage(server: QuestDBServer, table: str, how: str) -> None:
    """Take from a table of a dead server what CREATE TABLE makes last."""
    (folder,) = (one for one in (server.folder / "db").glob(f"{table}~*") if one.is_dir())
    DAMAGES[how](folder / "txn_seq")


async def restart(server: QuestDBServer, *damages: tuple[str, str]) -> None:
    await asyncio.to_thread(server.kill)
    for table, how in damages:
        damage(server, table, how)
    await asyncio.to_thread(server.start)


async def test_26_a_half_made_table_is_made_again_and_one_with_rows_is_not(
    questdb_server: QuestDBServer,
) -> None:
    def store(table: str) -> QuestDBStore:
        return QuestDBStore(questdb_server.dsn, table=table, http=questdb_server.http)

    login = parse_dsn(questdb_server.dsn)
    at = parse_http(questdb_server.http, login)
    link = QuestDBLink(login, at, ("none", "none"), 10, random.Random(1))
    salt = f"{random.SystemRandom().getrandbits(32):08x}"
    names = {how: f"half_{how}_{salt}" for how in DAMAGES}
    full, plain = f"full_{salt}", f"plain_{salt}"
    for how, name in names.items():
        await link.execute(create_statement(name, BARS))
        if how == "empty_log":
            await link.execute(create_statement(f"{name}__coverage", COVERAGE))
    await link.execute(create_statement(plain, BARS).partition(" WAL ")[0] + " BYPASS WAL")
    async with store(full) as whole:
        await whole.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    planted = [(name, how) for how, name in names.items()]
    planted += [(f"{names['empty_log']}__coverage", "empty_log"), (full, "empty_log")]
    await restart(questdb_server, *planted)

    for name in names.values():
        async with store(name) as half:
            assert await half.coverage(MINUTES) == []
            assert (await half.read(MINUTES, 0, 2**33)).is_empty()
            parts = [(M + 60 * i, M + 60 * i + 60) for i in range(4)]
            await asyncio.gather(*(half.write(MINUTES, minutes(a, 1), covered=[(a, b)]) for a, b in parts))
    async with store(full) as whole:
        with pytest.raises(StoreError, match=f'"{full}" holds rows, and QuestDB cannot read its'):
            await whole.write(MINUTES, minutes(M + 180, 1), covered=[])
    async with store(plain) as other:
        with pytest.raises(StoreSchemaError, match="has no WAL"):
            await other.read(MINUTES, 0, 60)
    await restart(questdb_server)
    for name in names.values():
        async with store(name) as half:
            assert await half.coverage(MINUTES) == spans((M, M + 240, "rows"))
            assert (await half.read(MINUTES, 0, 2**33)).height == 4
    assert (await link.fetch(f'SELECT count() FROM "{full}"'))[0][0] == 3
    await link.aclose()
