"""The SDK's constants, from qmtl.yml, read per call (connectors.md §5)."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from qmtl.config import ConfigError
from qmtl.runtime.sdk import runtime

TABLE = {
    "HTTP_TIMEOUT_SECONDS": (2.0, 1.5),
    "WS_RECV_TIMEOUT_SECONDS": (30.0, 5.0),
    "WS_MAX_TOTAL_TIME_SECONDS": (None, 5.0),
    "POLL_INTERVAL_SECONDS": (10.0, 2.0),
}


@pytest.fixture(autouse=True)
def fresh(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    runtime.reload()
    yield
    monkeypatch.undo()
    runtime.reload()


@pytest.mark.parametrize("name", TABLE)
def test_defaults_and_test_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, in_tests = TABLE[name]
    assert getattr(runtime, name) == usual
    monkeypatch.setenv("QMTL_RUNTIME__TEST_MODE", "true")
    assert getattr(runtime, name) == usual
    runtime.reload()
    assert getattr(runtime, name) == in_tests


def test_the_rest_of_the_table() -> None:
    assert runtime.TEST_MODE is False
    assert runtime.FIXED_NOW is None
    with pytest.raises(AttributeError, match="NO_SUCH_SECONDS"):
        _ = runtime.NO_SUCH_SECONDS


def test_yml_and_environment_set_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "qmtl.yml").write_text(
        "runtime:\n  http_timeout_seconds: 4\n  poll_interval_seconds: 7\n"
        "  poll_interval_seconds_test: 0.5\n  fixed_now: 2026-01-02T03:04:05Z\n"
    )
    monkeypatch.setenv("QMTL_RUNTIME__POLL_INTERVAL_SECONDS", "3")
    runtime.reload()
    assert (runtime.HTTP_TIMEOUT_SECONDS, runtime.POLL_INTERVAL_SECONDS) == (4.0, 3.0)
    assert runtime.FIXED_NOW is not None
    assert runtime.FIXED_NOW.year == 2026
    runtime.TEST_MODE = True
    assert runtime.POLL_INTERVAL_SECONDS == 0.5
    runtime.reload()
    assert runtime.POLL_INTERVAL_SECONDS == 3.0


def test_a_wrong_value_is_one_line_naming_it(tmp_path: Path) -> None:
    (tmp_path / "qmtl.yml").write_text("runtime:\n  http_timeout_seconds: soon\n")
    with pytest.raises(ConfigError, match=r"qmtl\.yml: runtime\.http_timeout_seconds: found 'soon'"):
        runtime.reload()
    (tmp_path / "qmtl.yml").unlink()
