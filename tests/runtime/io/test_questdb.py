"""QuestDBStore beyond the store contract: its tables, its errors, its server's absence, hostile names."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import asyncpg
import polars as pl
import pytest

from qmtl.engine.clock import SystemClock
from qmtl.runtime.io import questdb_link
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.io.questdb_link import parse_dsn, parse_http
from qmtl.runtime.io.questdb_tables import BARS, COVERAGE, TRADES, create_statement
from qmtl.runtime.sdk.history import (
    InvalidIdentifierError,
    QuestDBConnectionError,
    SeriesKey,
    StaleLeaseError,
    StoreError,
    StoreSchemaError,
    WalLagError,
    WalSuspendedError,
)
from qmtl.runtime.sdk.lease_keeper import claim_kept
from tests.contracts.history_rows import MINUTES, MONTH_END, bars, minutes, spans, trades
from tests.contracts.history_rows import TRADES as TRADES_KEY
from tests.servers import QuestDBServer

M = MONTH_END


@pytest.fixture
def table() -> str:
    return f"q{random.SystemRandom().getrandbits(64):016x}"


@pytest.fixture
async def make(questdb_server: QuestDBServer, table: str) -> AsyncIterator[Callable[[], QuestDBStore]]:
    """Stores over one table, closed at the end whatever happened."""
    made: list[QuestDBStore] = []

    def one() -> QuestDBStore:
        made.append(QuestDBStore(questdb_server.dsn, table=table, http=questdb_server.http))
        return made[-1]

    yield one
    for store in made:
        await store.aclose()


async def execute(server: QuestDBServer, statement: str) -> list[asyncpg.Record]:
    session = await asyncpg.connect(server.dsn)
    try:
        return list(await session.fetch(statement))
    finally:
        await session.close()


def test_the_constructor_needs_no_server_and_no_loop() -> None:
    store = QuestDBStore("questdb://db.example", table="ohlcv", http="https://db.example:9443")
    assert store.environment is None
    assert parse_dsn("questdb://db.example")[1:4] == (8812, "admin", "quest")
    assert parse_dsn("postgresql://u%40x:p%3Aw@h:1/any")[:4] == ("h", 1, "u@x", "p:w")
    login = parse_dsn("postgresql://h")
    assert parse_http("h2", login)[:2] == ("h2", 9000)
    assert parse_http("https://h2:1", login).is_tls
    for dsn in ("mysql://h", "postgresql://", "h:8812", "postgresql://h:x"):
        with pytest.raises(ValueError, match="QuestDB DSN"):
            QuestDBStore(dsn)
    with pytest.raises(ValueError, match="QuestDB http"):
        QuestDBStore("postgresql://h", http="ftp://h")


def test_the_tables_are_those_of_the_contract() -> None:
    assert create_statement("ohlcv", BARS) == (
        'CREATE TABLE IF NOT EXISTS "ohlcv" (ts TIMESTAMP, node_id SYMBOL, interval_s INT, open DOUBLE, '
        "high DOUBLE, low DOUBLE, close DOUBLE, volume DOUBLE) TIMESTAMP(ts) PARTITION BY DAY WAL "
        "DEDUP UPSERT KEYS(ts, node_id, interval_s)"
    )
    assert TRADES.keys == ("ts", "node_id", "trade_key")
    assert COVERAGE.keys == ("ts", "node_id", "interval_s", "kind")


async def test_41_a_server_that_is_down_is_named(free_port: int) -> None:
    text = (
        f"cannot reach QuestDB at 127.0.0.1:{free_port}: Connection refused; "
        "check the DSN and that the server is running"
    )
    store = QuestDBStore(f"postgresql://127.0.0.1:{free_port}/qdb", http=f"http://127.0.0.1:{free_port}")
    with pytest.raises(QuestDBConnectionError) as caught:
        await store.read(MINUTES, 0, 60)
    assert str(caught.value) == text
    with pytest.raises(ConnectionError) as caught_too:
        await store.write(MINUTES, minutes(M, 1), covered=[])
    assert str(caught_too.value) == text
    await store.aclose()


async def test_ilp_that_is_down_is_named_and_nothing_is_covered(
    questdb_server: QuestDBServer, make: Callable[[], QuestDBStore], table: str, free_port: int
) -> None:
    store = make()
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    lame = QuestDBStore(questdb_server.dsn, table=table, http=f"http://127.0.0.1:{free_port}")
    with pytest.raises(QuestDBConnectionError, match=f"127.0.0.1:{free_port}: .*refused; check the DSN"):
        await lame.write(MINUTES, minutes(M + 60, 1), covered=[(M + 60, M + 120)])
    assert await lame.coverage(MINUTES) == spans((M, M + 60, "rows"))
    await lame.aclose()


async def test_a_wrong_password_is_told_without_it(questdb_server: QuestDBServer) -> None:
    dsn = questdb_server.dsn.replace("quest@", "hunter2@")
    async with QuestDBStore(dsn, http=questdb_server.http) as store:
        with pytest.raises(StoreError, match="invalid username/password") as caught:
            await store.read(MINUTES, 0, 60)
        assert "hunter2" not in f"{caught.value!r} {store!r}"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (
            create_statement("T", BARS).replace(" DEDUP UPSERT KEYS(ts, node_id, interval_s)", ""),
            "DEDUP ENABLE",
        ),
        (create_statement("T", BARS).replace("KEYS(ts, node_id, interval_s)", "KEYS(ts)"), "DEDUP ENABLE"),
        (create_statement("T", BARS).replace(", volume DOUBLE", ""), "ADD COLUMN volume DOUBLE"),
        (create_statement("T", BARS).replace("open DOUBLE", "open FLOAT"), "ALTER COLUMN open TYPE DOUBLE"),
    ],
)
async def test_a_table_of_another_shape_is_refused_with_what_mends_it(
    questdb_server: QuestDBServer, make: Callable[[], QuestDBStore], table: str, shape: str, reason: str
) -> None:
    await execute(questdb_server, shape.replace('"T"', f'"{table}"'))
    store = make()
    with pytest.raises(StoreSchemaError, match=reason) as caught:
        await store.write(MINUTES, minutes(M, 1), covered=[])
    mending = str(caught.value).partition("run: ")[2]
    assert mending.startswith(f'ALTER TABLE "{table}" ')
    await execute(questdb_server, mending)
    await store._link.wait_applied(table)
    assert await store.write(MINUTES, minutes(M, 2), covered=[(M, M + 120)]) == 2
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 2))


async def test_bars_and_trades_want_tables_of_their_own(make: Callable[[], QuestDBStore]) -> None:
    store = make()
    await store.write(MINUTES, minutes(M, 1), covered=[])
    with pytest.raises(StoreSchemaError, match="holds bars; trades go into a table of their own"):
        await store.write(TRADES_KEY, trades([(M * 1000, "1", 1.0)]), covered=[])
    with pytest.raises(StoreSchemaError, match="holds bars"):
        await store.read(TRADES_KEY, 0, 60)


async def test_a_suspended_table_is_told_apart_from_a_slow_one(
    questdb_server: QuestDBServer,
    make: Callable[[], QuestDBStore],
    table: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make()
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    await execute(questdb_server, f'ALTER TABLE "{table}" SUSPEND WAL')
    with pytest.raises(WalSuspendedError, match=f'ALTER TABLE "{table}" RESUME WAL'):
        await store.write(MINUTES, minutes(M + 60, 1), covered=[(M + 60, M + 120)])
    assert await store.coverage(MINUTES) == spans((M, M + 60, "rows"))
    await execute(questdb_server, f'ALTER TABLE "{table}" RESUME WAL')
    await store.write(MINUTES, minutes(M + 60, 1), covered=[(M + 60, M + 120)])
    assert await store.coverage(MINUTES) == spans((M, M + 120, "rows"))

    async def lagging(*values: object) -> list[dict[str, object]]:
        return [{"name": table, "suspended": False, "written": 3, "accepted": 5, "reason": ""}]

    link = questdb_link.QuestDBLink(
        parse_dsn("questdb://h"), parse_dsn("questdb://h"), (table, "b"), 0.02, random.Random(1)
    )
    monkeypatch.setattr(link, "fetch", lagging)
    with pytest.raises(WalLagError, match=r"applied transaction 3 of 5 in 0\.02 s"):
        await link.wait_applied(table)


async def test_a_restarted_server_is_found_again(
    questdb_server: QuestDBServer, make: Callable[[], QuestDBStore]
) -> None:
    store = make()
    await store.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    await asyncio.gather(*(store.read(MINUTES, 0, 2**33) for _ in range(8)))
    questdb_server.kill()
    with pytest.raises(QuestDBConnectionError):
        await store.read(MINUTES, 0, 2**33)
    questdb_server.start()
    await store.write(MINUTES, minutes(M + 180, 3), covered=[(M + 180, M + 360)])
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 6))
    assert await store.coverage(MINUTES) == spans((M, M + 360, "rows"))
    assert await store.series() == [MINUTES]


async def test_26_a_table_that_the_catalogue_leaves_out_is_there(questdb_server: QuestDBServer) -> None:
    """After a start `tables()` is filled in the background, and one of this name it never shows."""
    async with QuestDBStore(questdb_server.dsn, table="telemetry", http=questdb_server.http) as store:
        await store.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    names = {row[0] for row in await execute(questdb_server, "SELECT table_name FROM tables()")}
    assert "telemetry__coverage" in names
    assert "telemetry" not in names
    async with QuestDBStore(questdb_server.dsn, table="telemetry", http=questdb_server.http) as store:
        assert await store.coverage(MINUTES) == spans((M, M + 180, "rows"))
        assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 3))
        assert await store.write(MINUTES, minutes(M + 180, 3), covered=[(M + 180, M + 360)]) == 3
    for name in ("telemetry", "telemetry__coverage"):
        await execute(questdb_server, f'DROP TABLE "{name}"')


async def test_26_coverage_is_never_seen_ahead_of_its_rows(
    questdb_server: QuestDBServer, make: Callable[[], QuestDBStore], table: str
) -> None:
    """Rows are accepted and not applied, their coverage is: as a server that lost its power may come up."""
    store = make()
    await store.write(MINUTES, minutes(M, 1), covered=[(M, M + 60)])
    await execute(questdb_server, f'ALTER TABLE "{table}" SUSPEND WAL')
    late = minutes(M + 60, 20_000)
    for part in late.iter_slices(200):
        with pytest.raises(WalSuspendedError):
            await store.write(MINUTES, part, covered=[])
    await store._lay(MINUTES, [(M + 60, M + 60 * 20_001)], "rows")
    for ask in (make().coverage(MINUTES), make().read(MINUTES, 0, 2**33), make().series()):
        with pytest.raises(WalSuspendedError, match=f'ALTER TABLE "{table}" RESUME WAL'):
            await ask
    await asyncio.to_thread(questdb_server.kill)
    await asyncio.to_thread(questdb_server.start)  # suspension is forgotten, the rows come after the answers
    rows, found = await store.read(MINUTES, M + 60, 2**33), await store.coverage(MINUTES)
    assert found == spans((M, M + 60 * 20_001, "rows"))
    assert rows.equals(late)


async def test_24_a_writer_whose_lease_is_lost_writes_nothing_more(
    make: Callable[[], QuestDBStore], tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qmtl.runtime.io.questdb._BATCH_ROWS", 10)
    store, leases = make(), LeaseStore(f"sqlite:///{tmp_path}/leases.db")
    _, keepers = await claim_kept(leases, MINUTES, M, M + 6000, "one", 60_000, clock=SystemClock())
    keeper = keepers[0]

    async def work() -> int:
        fence = keeper.lease.fence
        await store.write(MINUTES, minutes(M, 10), covered=[(M, M + 600)], fence=fence)
        await leases.fail(keeper.lease.token, "taken away")
        keeper._renewed_ms -= 1_500  # the last renewal was more than a second ago
        return await store.write(MINUTES, minutes(M + 600, 10), covered=[(M + 600, M + 1200)], fence=fence)

    with pytest.raises(StaleLeaseError):
        await keeper.run(work())
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 10))
    assert await store.coverage(MINUTES) == spans((M, M + 600, "rows"))
    await leases.aclose()


async def test_trades_keep_their_milliseconds_and_odd_ids(make: Callable[[], QuestDBStore]) -> None:
    rows = [(M * 1000 + i % 7, f"id {i}'\"\\,=é\n", float(i)) for i in range(50)]
    frame = trades(rows).sort("ts_ms", "id")
    store = make()
    await store.write(TRADES_KEY, frame, covered=[(M, M + 3600)])
    assert (await store.read(TRADES_KEY, M, M + 1)).equals(frame)


async def test_values_come_back_as_they_were(make: Callable[[], QuestDBStore]) -> None:
    odd = [0.1 + 0.2, 1e-300, 1.7976931348623157e308, 5e-324, -0.0, 123456789.123456789]
    frame = bars([M + 60 * i for i in range(len(odd))]).with_columns(
        **{name: pl.Series(odd) for name in ("open", "high", "low", "close", "volume")}
    )
    store = make()
    await store.write(MINUTES, frame, covered=[])
    assert (await store.read(MINUTES, 0, 2**33)).equals(frame)


def payloads(count: int) -> list[str]:
    """Seeded attempts to leave a quoted name, a literal or a line of ILP."""
    source = random.Random(29)
    closers = [
        "'",
        '"',
        "')",
        '")',
        '" ',
        "\n",
        "\r\n",
        "\0",
        "\\",
        "`",
        ";",
        "$1",
        "''",
        '""',
        " ",
        ",",
        "=",
    ]
    attacks = [
        "DROP TABLE {t}",
        "TRUNCATE TABLE {t}",
        "INSERT INTO {t} SELECT * FROM {t}",
        "UPDATE {t} SET close=0",
        "ALTER TABLE {t} DROP COLUMN close",
        "CREATE TABLE {t}_owned (a INT)",
        "{t},node_id=x close=0 0",
        "UNION ALL SELECT * FROM {t}",
    ]
    made = []
    for number in range(count):
        parts = [source.choice(closers) for _ in range(source.randint(1, 3))]
        parts += [
            source.choice([";", " ", "/**/", "\n", ""]),
            source.choice(attacks),
            source.choice(["--", ";", ""]),
        ]
        text = f"{''.join(parts)}{number}"
        made.append(text.replace(" ", "/**/") if source.random() < 0.5 else text)
    return made


@pytest.mark.fuzz
@pytest.mark.timeout(900)
async def test_29_injection_payloads_never_execute(
    questdb_server: QuestDBServer,
    make: Callable[[], QuestDBStore],
    table: str,
    count: Callable[[int, int], int],
) -> None:
    store = make()
    await store.write(MINUTES, minutes(M, 3), covered=[(M, M + 180)])
    named = "SELECT table_name FROM tables() ORDER BY 1"
    before = await execute(questdb_server, named)
    # After a start of the server (another test's) this list fills in the background.
    while await asyncio.sleep(0.5, before) != (before := await execute(questdb_server, named)):
        pass
    as_names = as_rows = 0
    for text in payloads(count(500, 10_000)):
        payload = text.replace("{t}", table)
        with pytest.raises(InvalidIdentifierError):
            QuestDBStore(questdb_server.dsn, table=payload)
        with pytest.raises(ValueError, match=r"columns? "):
            await store.write(MINUTES, minutes(M, 1).rename({"close": payload}), covered=[])
        key = SeriesKey(f"ohlcv:binance:{payload}:1m", 60)
        try:
            assert (await store.read(key, 0, 2**33)).height == 0
        except ValueError:
            continue  # no node id at all
        assert await store.coverage(key) == []
        as_names += 1
        if as_names % 20 == 1:
            await store.write(key, minutes(M, 2, 5.0), covered=[(M, M + 120)])
            assert (await store.read(key, 0, 2**33)).equals(minutes(M, 2, 5.0))
            as_rows += 1
    assert as_names > 50
    assert as_rows > 2
    assert await execute(questdb_server, named) == before
    assert (await store.read(MINUTES, 0, 2**33)).equals(minutes(M, 3))
    assert await store.coverage(MINUTES) == spans((M, M + 180, "rows"))
