"""The servers of the tests answer, die and come back with what they kept."""

import urllib.parse
import urllib.request

from tests.servers import PostgresServer, QuestDBServer, RedisServer, run_apart


def test_redis_forgets_and_comes_back_on_its_port(redis_server: RedisServer) -> None:
    assert redis_server.ask(b"SET a 1") == b"+OK\r\n"
    redis_server.kill()
    assert not redis_server.is_ready()
    redis_server.start()
    assert redis_server.ask(b"GET a") == b"$-1\r\n"


def test_postgres_keeps_what_was_committed(postgres_server: PostgresServer, postgres_dsn: str) -> None:
    async def ask(statement: str) -> object:
        import asyncpg

        session = await asyncpg.connect(postgres_dsn)
        try:
            return await session.fetchval(statement)
        finally:
            await session.close()

    run_apart(ask("create table kept as select 41 as a"))
    postgres_server.kill()
    postgres_server.start()
    assert run_apart(ask("select a + 1 from kept")) == 42


def test_questdb_keeps_its_tables_over_a_kill(questdb_server: QuestDBServer) -> None:
    def ask(statement: str) -> bytes:
        query = urllib.parse.urlencode({"query": statement})
        with urllib.request.urlopen(f"{questdb_server.http}/exec?{query}", timeout=20) as answer:
            body: bytes = answer.read()
        return body

    ask("create table servers_kept (ts timestamp, a int) timestamp(ts) partition by day wal")
    questdb_server.kill()
    questdb_server.start()
    # Not `tables()`: QuestDB fills that list in the background after a start (docs/decisions/0007).
    assert b'["a","INT"' in ask("show columns from servers_kept")
    ask("drop table servers_kept")
