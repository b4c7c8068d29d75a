"""What every test of the engine may ask for."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qmtl.engine.journal import SqliteJournal
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.tap import TappedJournal

KINDS = ["memory", "sqlite", "tapped memory", "tapped sqlite"]


@pytest.fixture(params=KINDS)
def journal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventJournal]:
    inner: EventJournal = MemoryJournal("e1")
    if "sqlite" in request.param:
        inner = SqliteJournal(tmp_path / "a.db", "e1")
    opened = TappedJournal(inner) if "tapped" in request.param else inner
    yield opened
    opened.close()
