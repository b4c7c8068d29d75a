"""A broker process, an SDK that knows no configuration but the test's, and journals that are closed after."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qmtl.engine import order_journal
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.background import BACKGROUND
from qmtl.runtime.sdk.brokerage import execution
from tests.runtime.sdk.brokerage.http_broker import BookHandle, BrokerProcess
from tests.runtime.sdk.brokerage.orders import CLIENTS


async def close_all() -> None:
    for client in CLIENTS:
        await client.shut()
    CLIENTS.clear()
    for journal in list(order_journal._open.values()):
        journal.close()


@pytest.fixture(scope="session")
def broker() -> Iterator[BrokerProcess]:
    process = BrokerProcess()
    yield process
    process.close()


@pytest.fixture
def book(broker: BrokerProcess) -> BookHandle:
    return broker.open()


@pytest.fixture(autouse=True)
def sdk(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Configuration from an empty directory, short HTTP time-outs, no running context."""
    monkeypatch.chdir(tmp_path)
    runtime.reload()
    runtime.HTTP_TIMEOUT_SECONDS = 0.3
    yield
    BACKGROUND.run(close_all())
    execution.set_default_context(execution.ExecutionContext())
    for name in [name for name in os.environ if name.startswith("QMTL_")]:
        if name not in {"QMTL_TEST_DATA", "QMTL_CAMPAIGN"}:
            monkeypatch.delenv(name)
    runtime._loaded.clear()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`configure(QMTL_X__Y="…")` sets the environment and reads it."""

    def apply(**names: str) -> None:
        for name, value in names.items():
            monkeypatch.setenv(name, value)
        runtime.reload()
        runtime.HTTP_TIMEOUT_SECONDS = 0.3

    return apply
