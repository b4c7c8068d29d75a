"""A Runner as at import, with a home of its own and no configuration."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qmtl.engine import order_journal
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.runner import Runner


def forget() -> None:
    """Close what a test left open and take every setting back."""
    Runner.shutdown()
    Runner.set_trade_execution_service(None)
    Runner.set_activation_manager(None)
    Runner.set_enable_trade_submission(True)
    Runner.set_default_context(None)
    Runner._mode = None
    Runner._publish_context()
    Runner.road.counts.clear()
    for desk in (Runner.road.desk, Runner.road.shadow):
        desk._desk = None

    async def close() -> None:
        for journal in list(order_journal._open.values()):
            journal.close()

    BACKGROUND.run(close())
    runtime._loaded.clear()


@pytest.fixture
def runner(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Runner]]:
    """The Runner; its order journal lies in the test's home."""
    monkeypatch.chdir(home)
    forget()
    yield Runner
    forget()
