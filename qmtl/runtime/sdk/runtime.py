"""Constants of the SDK, from the `runtime:` section of qmtl.yml; test mode takes the values ending in _test.

Read them as attributes, each time they are needed: `runtime.HTTP_TIMEOUT_SECONDS`. A value assigned to an
attribute stands until `reload()`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from qmtl.settings import Settings

    HTTP_TIMEOUT_SECONDS: float
    WS_RECV_TIMEOUT_SECONDS: float
    WS_MAX_TOTAL_TIME_SECONDS: float | None
    POLL_INTERVAL_SECONDS: float
    TEST_MODE: bool
    FIXED_NOW: datetime | None

_TIMED = frozenset(
    {
        "HTTP_TIMEOUT_SECONDS",
        "WS_RECV_TIMEOUT_SECONDS",
        "WS_MAX_TOTAL_TIME_SECONDS",
        "POLL_INTERVAL_SECONDS",
    }
)
_NAMES = _TIMED | {"TEST_MODE", "FIXED_NOW"}
_loaded: "list[Settings]" = []


def settings() -> "Settings":
    """Return the settings of this process, loaded at the first call; ConfigError when they are wrong."""
    if not _loaded:
        from qmtl.config import load

        _loaded.append(load())
    return _loaded[0]


@contextmanager
def using(given: "Settings") -> Iterator[None]:
    """Take these settings, which a command line loaded, for the body."""
    before = _loaded.copy()
    _loaded[:] = [given]
    try:
        yield
    finally:
        _loaded[:] = before


def reload() -> None:
    """Forget assigned values and read qmtl.yml and the environment again."""
    for name in _NAMES:
        globals().pop(name, None)
    _loaded.clear()
    settings()


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    section = settings().runtime
    is_test = name in _TIMED and globals().get("TEST_MODE", section.test_mode)
    return getattr(section, name.lower() + ("_test" if is_test else ""))
