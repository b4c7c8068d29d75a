"""QuestDB as it comes, for the measurements: the tests' server without what makes it small."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.servers import QuestDBServer

SMALL = ("cairo.", "dev.mode.")


class DefaultQuestDB(QuestDBServer):
    """The server with its own page sizes, both compilers, and the heap it asks for."""

    def __init__(self) -> None:
        super().__init__()
        conf = self.folder / "conf" / "server.conf"
        lines = conf.read_text("utf-8").splitlines(keepends=True)
        conf.write_text("".join(line for line in lines if not line.startswith(SMALL)), "utf-8")

    def command(self) -> list[str]:
        """Return the command line of the server."""
        java = str(shutil.which("java"))
        return [java, "-p", str(self.jar), "-m", "io.questdb/io.questdb.ServerMain", "-d", str(self.folder)]


@contextmanager
def questdb_at_hand() -> Iterator[QuestDBServer | None]:
    """Run a server for the block; None, with a line that says why, where there is none."""
    try:
        server = DefaultQuestDB()
    except pytest.skip.Exception as reason:
        print(f"without QuestDB: {reason}")
        yield None
        return
    try:
        server.start()
        yield server
    finally:
        server.stop()
