"""Real Redis, PostgreSQL and QuestDB for tests: one of each per pytest process, started when first asked for.

All listen on 127.0.0.1 only, keep their data in a directory that goes with them, end with pytest (even when
that is killed), and come back on the same port and data after `kill()` and `start()`.
"""

import asyncio
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from tests.processes import end_now, list_children

ROOT = Path(__file__).resolve().parent.parent
SERVERS = ROOT / ".servers"
START_TIMEOUT_S = 90
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
# The kernel counts the thread that started a child as its parent, so all are started by one that stays.
_PARENT = ThreadPoolExecutor(1, thread_name_prefix="servers")
_GIVEN: set[int] = set()

T = TypeVar("T")
S = TypeVar("S", bound="Server")


class Server:
    """A program, its directory, its port and its process."""

    name = "server"
    # What it keeps goes with it, so most need no time to put things in order.
    last_signal = signal.SIGKILL

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"qmtl-{self.name}-"))
        self.port = pick_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.user: int | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def is_ready(self) -> bool:
        raise NotImplementedError

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text("utf-8", "replace")

    def start(self) -> None:
        """Start, or start again on the same port and data, and wait until it answers; nothing if it runs."""
        if self.is_running:
            return
        self.process = _PARENT.submit(self._spawn, self.command()).result()
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"{self.name} did not start:\n{self.log[-3000:]}")
            time.sleep(0.05)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            # It dies with this process, whatever kills that.
            return subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                user=self.user,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - one call of prctl, no Python lock is held by it
            )

    def kill(self) -> None:
        """End it as a power cut would: SIGKILL, nothing is flushed."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it and remove its directory."""
        self._end(self.last_signal)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class RedisServer(Server):
    """Redis without persistence: what it knew is gone after `kill()`."""

    name = "redis"

    def command(self) -> list[str]:
        program = find_program("redis-server")
        return [program, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]

    @property
    def dsn(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def ask(self, line: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as link:
            link.sendall(line + b"\r\n")
            return link.recv(4096)

    def is_ready(self) -> bool:
        try:
            return self.ask(b"PING").startswith(b"+PONG")
        except OSError:
            return False


class PostgresServer(Server):
    """PostgreSQL with one superuser `qmtl`, no password; it refuses root, so root runs it as nobody."""

    name = "postgres"
    last_signal = signal.SIGINT  # its shared memory is not a file of its directory

    def __init__(self) -> None:
        super().__init__()
        home = Path(find_program("initdb")).resolve().parent
        if os.geteuid() == 0:
            import pwd

            self.user = pwd.getpwnam("nobody").pw_uid
            if SERVERS in home.parents:  # nobody may not be allowed to enter the directories above
                shutil.copytree(home.parent, self.folder / "program")
                home = self.folder / "program" / "bin"
            os.chown(self.folder, self.user, -1)
        self.program = home / "postgres"
        settings = ["--username=qmtl", "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync"]
        done = subprocess.run(
            [home / "initdb", *settings, f"--pgdata={self.folder / 'data'}"],
            user=self.user,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stderr[-3000:]}")

    def command(self) -> list[str]:
        # A killed process loses nothing without fsync; only a killed machine would.
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "fsync": "off",
            "shared_buffers": "16MB",
            "max_connections": 60,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(self.program), "-D", str(self.folder / "data"), *options]

    def kill(self) -> None:
        """See Server; a power cut takes the sessions too, which outlive their parent for a moment."""
        sessions = list_children(self.process.pid) if self.process is not None else []
        super().kill()
        end_now(sessions)

    def dsn_of(self, database: str) -> str:
        return f"postgresql://qmtl@127.0.0.1:{self.port}/{database}"

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def execute(self, statement: str) -> None:
        """Run one statement in a session of its own; also inside a test that has a loop."""

        async def run() -> None:
            import asyncpg

            session = await asyncpg.connect(self.dsn, timeout=5)
            try:
                await session.execute(statement)
            finally:
                await session.close()

        run_apart(run())

    def is_ready(self) -> bool:
        import asyncpg

        try:
            self.execute("select 1")
        except (OSError, TimeoutError, asyncpg.PostgresError):
            return False
        return True


class QuestDBServer(Server):
    """QuestDB from its jar: ILP and queries over HTTP, SQL over pgwire, login admin and quest."""

    name = "questdb"
    settings: ClassVar[dict[str, str]] = {
        "dev.mode.enabled": "true",  # ALTER TABLE … SUSPEND WAL is for tests only
        "shared.worker.count": "2",
        # Small tables: pages of the default size cost more than the rows.
        "cairo.wal.writer.data.append.page.size": "64k",
        "cairo.writer.data.append.page.size": "64k",
        "cairo.writer.data.index.key.append.page.size": "64k",
        "cairo.writer.data.index.value.append.page.size": "64k",
        "cairo.system.writer.data.append.page.size": "64k",
        "cairo.wal.writer.event.append.page.size": "64k",
        "cairo.o3.column.memory.size": "256k",
    }

    def __init__(self) -> None:
        super().__init__()
        self.http_port = pick_port()
        found = sorted((SERVERS / "questdb").glob("questdb-*.jar"))
        if not found or shutil.which("java") is None:
            pytest.skip(reason_for("questdb"))
        self.jar = found[-1]
        conf = self.folder / "conf"
        conf.mkdir()
        with zipfile.ZipFile(self.jar) as jar:
            (conf / "mime.types").write_bytes(jar.read("io/questdb/site/conf/mime.types"))
        log = (
            "writers=stdout\nw.stdout.class=io.questdb.log.LogConsoleWriter\nw.stdout.level=ERROR,CRITICAL\n"
        )
        (conf / "log.conf").write_text(log, "utf-8")
        settings = {
            "http.bind.to": f"127.0.0.1:{self.http_port}",
            "pg.net.bind.to": f"127.0.0.1:{self.port}",
            "http.min.enabled": "false",
            "line.tcp.enabled": "false",
            "telemetry.enabled": "false",
            **self.settings,
        }
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        (conf / "server.conf").write_text(lines, "utf-8")

    def command(self) -> list[str]:
        java = str(shutil.which("java"))
        main = ["-p", str(self.jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.folder)]
        return [java, "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *main]

    @property
    def dsn(self) -> str:
        return f"postgresql://admin:quest@127.0.0.1:{self.port}/qdb"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def execute(self, statement: str) -> None:
        """Run one statement over HTTP; urllib.error.HTTPError where QuestDB refuses it."""
        query = urllib.parse.urlencode({"query": statement})
        with urllib.request.urlopen(f"{self.http}/exec?{query}", timeout=60):
            pass

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.http}/exec?query=select%201", timeout=5):
                pass
            with socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return True
        except (OSError, urllib.error.URLError):
            return False


def _die_with_parent() -> None:
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def pick_port() -> int:
    """A loopback port nobody listens on, below those the kernel hands out: it stays free over a restart.

    None is given twice, neither here nor in another worker of the same run.
    """
    chosen = random.SystemRandom()
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for _ in range(200):
        port = chosen.randrange(15_000 + worker, 32_000, workers)
        if port in _GIVEN:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            _GIVEN.add(port)
            return port
    raise RuntimeError("no free loopback port between 15000 and 32000")


def run_apart(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in a thread with a loop of its own: the caller may be inside one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def reason_for(program: str) -> str:
    """Why a program is not here, as servers.sh wrote it."""
    note = SERVERS / "skipped.txt"
    lines = note.read_text("utf-8").splitlines() if note.exists() else []
    said = [line for line in lines if line.startswith(f"skipped: {program}:")]
    return said[0] if said else f"{program} is not installed (make servers)"


def find_program(name: str) -> str:
    """The path of a program, or a skip that names it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(reason_for("postgres" if name == "initdb" else name))
    return found


def _serve(make: Callable[[], S]) -> Iterator[S]:
    server = make()
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_process() -> Iterator[RedisServer]:
    """The Redis of this pytest process; tests take `redis_server`."""
    yield from _serve(RedisServer)


@pytest.fixture
def redis_server(redis_process: RedisServer) -> RedisServer:
    """An empty, running Redis; a test may `kill()` and `start()` it."""
    redis_process.start()
    redis_process.ask(b"FLUSHALL")
    return redis_process


@pytest.fixture(scope="session")
def postgres_process() -> Iterator[PostgresServer]:
    """The PostgreSQL of this pytest process; tests take `postgres_server` or `postgres_dsn`."""
    yield from _serve(PostgresServer)


@pytest.fixture
def postgres_server(postgres_process: PostgresServer) -> PostgresServer:
    """A running PostgreSQL; `dsn` names its database `postgres`, which all tests share."""
    postgres_process.start()
    return postgres_process


@pytest.fixture
def postgres_dsn(postgres_server: PostgresServer) -> Iterator[str]:
    """The DSN of an empty database of this test's own."""
    name = f"t{random.SystemRandom().getrandbits(64):016x}"
    postgres_server.execute(f"create database {name}")
    yield postgres_server.dsn_of(name)
    postgres_server.start()
    postgres_server.execute(f"drop database {name} with (force)")


@pytest.fixture(scope="session")
def questdb_process() -> Iterator[QuestDBServer]:
    """The QuestDB of this pytest process; tests take `questdb_server`."""
    yield from _serve(QuestDBServer)


@pytest.fixture
def questdb_server(questdb_process: QuestDBServer) -> QuestDBServer:
    """A running QuestDB; tables of other tests may be in it, so name yours apart."""
    questdb_process.start()
    return questdb_process
