"""Where the contract suite finds stores: one place for each implementation of HistoryStore.

A place gives any number of stores over the same data. A new implementation adds itself to PLACES, and to
`open_at`, with which another process opens the store of a place.
"""

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from qmtl.engine.ports import Clock
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.sdk.history import HistoryStore

if TYPE_CHECKING:
    import pytest  # a child process that only opens a store starts faster without


class StorePlace(Protocol):
    """Somewhere to keep rows, empty at first; `address` is what another process needs to open it."""

    name: str
    address: str

    def open(self, clock: Clock | None = None) -> HistoryStore:
        """Return another store over the data of this place."""

    def renew(self) -> None:
        """Become another place, empty again, with another address."""

    async def faults(self, *, is_finished: bool) -> list[str]:
        """Return what is wrong inside; `is_finished` when nobody was killed since the last write."""


class EmbeddedPlace:
    """A folder of its own."""

    name = "embedded"

    def __init__(self, request: "pytest.FixtureRequest") -> None:
        self._folder: Path = request.getfixturevalue("tmp_path")
        self._numbers = count()
        self.renew()

    def open(self, clock: Clock | None = None) -> HistoryStore:
        return EmbeddedStore(self.address, clock=clock)

    def renew(self) -> None:
        self.address = str(self._folder / f"store-{next(self._numbers)}")

    async def faults(self, *, is_finished: bool) -> list[str]:
        async with EmbeddedStore(self.address, read_only=True) as store:
            found = [f"{fault.path} {fault.reason}" for fault in await store.verify()]
            if is_finished:
                named = {str(store.path / segment.file) for _, segment in store._catalogue.list_segments()}
                files = {str(path) for path in store.path.glob("segments/**/*") if path.is_file()}
                found += sorted(f"{path} is left over" for path in files - named)
            return found


PLACES: dict[str, Callable[["pytest.FixtureRequest"], StorePlace]] = {"embedded": EmbeddedPlace}


def open_at(name: str, address: str) -> HistoryStore:
    """Return a store of the place of that name, by its address."""
    if name == "embedded":
        return EmbeddedStore(address)
    raise ValueError(f"no such place: {name}")
