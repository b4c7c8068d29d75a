"""Where the contract suite finds stores: one place for each implementation of HistoryStore.

A place gives any number of stores over the same data. A new implementation adds itself to PLACES.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from qmtl.engine.ports import Clock
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.sdk.history import HistoryStore


class StorePlace(Protocol):
    """Somewhere to keep rows, empty at first."""

    def open(self, clock: Clock | None = None) -> HistoryStore:
        """Return another store over the data of this place."""


class EmbeddedPlace:
    """A folder of its own."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        folder: Path = request.getfixturevalue("tmp_path")
        self.path = folder / "store"

    def open(self, clock: Clock | None = None) -> HistoryStore:
        return EmbeddedStore(self.path, clock=clock)


PLACES: dict[str, Callable[[pytest.FixtureRequest], StorePlace]] = {"embedded": EmbeddedPlace}
