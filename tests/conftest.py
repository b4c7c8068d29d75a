"""What every test may ask for: recorded data, a free port, a home of its own, campaign counts."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
pytest_plugins = ["tests.servers"]

# `make test` repeats itself exactly and stays under 2,000 cases a property; `make fuzz` draws anew.
settings.register_profile(
    "test", max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "test"))

# Programs that scripts/servers.sh unpacked are found by shutil.which like installed ones.
os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{ROOT / '.servers' / 'bin'}"


# A shell's background job ignores Ctrl-C, and would hand that on to every program a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def recorded_data() -> Path:
    """The directory of recorded market data, never part of the project."""
    place = Path(os.environ.get("QMTL_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not place.is_dir():
        pytest.skip(f"no recorded data: {place} is not a directory (set QMTL_TEST_DATA)")
    return place


@pytest.fixture(scope="session")
def recorded_file(recorded_data: Path) -> Callable[[str], Path]:
    """Gives the path of one recording, or skips the test naming what is missing."""

    def find(name: str) -> Path:
        path = recorded_data / name
        if not path.exists():
            pytest.skip(f"no recorded data: {path} is missing")
        return path

    return find


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on, and that no connection of another test is given."""
    from tests.servers import pick_port

    return pick_port()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty home directory with no QMTL_* in the environment.

    Its path is short: a UNIX socket below it must fit 107 bytes, and tmp_path in a pytest worker is long.
    """
    folder = tempfile.TemporaryDirectory(prefix="qmtl-", ignore_cleanup_errors=True)
    place = Path(folder.name)
    for name in list(os.environ):
        if name.startswith("QMTL_") and name not in {"QMTL_TEST_DATA", "QMTL_CAMPAIGN"}:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_STATE_HOME", str(place / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(place / "config"))
    yield place
    folder.cleanup()


@pytest.fixture(scope="session")
def count() -> Callable[[int, int], int]:
    """`count(reduced, full)`: the reduced count in `make test`, the full one in chaos, fuzz and soak."""
    is_campaign = bool(os.environ.get("QMTL_CAMPAIGN"))
    return lambda reduced, full: full if is_campaign else reduced
