"""Parameter sweeps: sets in, one row each out, kept in a file that a killed sweep goes on from.

The file holds one JSON object a line: first what identifies the sweep, then a row for every set that is
done. A row is appended and flushed to disk before the next set is asked for.
"""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from qmtl.engine.crew import Crew, Outcome, Plain

Params = dict[str, Any]
Row = dict[str, Any]


class SweepError(ValueError):
    """A results file belongs to another sweep or cannot be read; the message names file and difference."""


def dump_set(params: Plain) -> str:
    """Return the text that identifies a parameter set: names in order, exact values."""
    return json.dumps(params, sort_keys=True)


def build_grid(space: Mapping[str, Sequence[Any]]) -> list[Params]:
    """Return every combination of the values by name, the last name varying fastest."""
    return [dict(zip(space, values, strict=True)) for values in product(*space.values())]


class SweepFile:
    """The results of one sweep on disk.

    `rows` holds those already there. `identity` must equal that of the file, else SweepError names what
    differs. A line cut off by a kill is dropped.
    """

    def __init__(self, path: Path, identity: Plain) -> None:
        self.path = path
        self.identity = json.loads(json.dumps(identity))
        self.rows: list[Row] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and path.stat().st_size:
            self._read()
        self._file = path.open("a", encoding="utf-8")
        if self._file.tell() == 0:
            self._write({"sweep": self.identity})

    def _read(self) -> None:
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(self.path, whole)
        lines = data[:whole].decode("utf-8").splitlines()
        try:
            body = [json.loads(line) for line in lines]
            known = body[0]["sweep"] if body else self.identity
        except (ValueError, KeyError, TypeError) as error:
            raise SweepError(f"{self.path}: not a sweep's results ({error}); move it away") from error
        for name in sorted(self.identity.keys() | known.keys()):
            mine, theirs = self.identity.get(name), known.get(name)
            if mine != theirs:
                raise SweepError(f"{self.path}: {name} is {mine} now and was {theirs}; use another directory")
        self.rows = body[1:]

    def append(self, row: Row) -> None:
        """Add a finished set; it survives a kill from here on."""
        self._write(row)
        self.rows.append(row)

    def _write(self, body: Plain) -> None:
        self._file.write(json.dumps(body, allow_nan=False) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Release the file."""
        self._file.close()


class Sampler(Protocol):
    """Where parameter sets come from."""

    total: int

    def propose(self, worker: int) -> Params | None:
        """Return the next set for `worker`; None when none is left, or none before more rows are told."""

    def tell(self, row: Row) -> None:
        """Take a finished row."""


class GridSampler:
    """Every set once; sets that differ in their last parameter only go to one worker, which remembers."""

    def __init__(self, sets: Iterable[Params], done: Iterable[Row] = ()) -> None:
        known = {dump_set(row["params"]) for row in done}
        waiting = list(sets)
        self.total = len(waiting)
        self._groups: dict[str, deque[Params]] = {}
        self._mine: dict[int, str] = {}
        for params in waiting:
            if dump_set(params) not in known:
                shared = dict(list(params.items())[:-1])
                self._groups.setdefault(dump_set(shared), deque()).append(params)

    def propose(self, worker: int) -> Params | None:
        """See Sampler."""
        groups = {key: sets for key, sets in self._groups.items() if sets}
        if not groups:
            return None
        key = self._mine.get(worker, "")
        if key not in groups:
            taken = set(self._mine.values())
            free = [other for other in groups if other not in taken]
            key = free[0] if free else max(groups, key=lambda other: len(groups[other]))
            self._mine[worker] = key
        return groups[key].popleft()

    def tell(self, row: Row) -> None:
        """See Sampler."""


def run_sweep(sampler: Sampler, crew: Crew, results: SweepFile, stamp: Plain) -> Iterator[Row]:
    """Evaluate what `sampler` proposes and yield each row once it is on disk.

    `stamp` (data fingerprint, seed, version) is part of every row. A row has `params` and either `result` or
    `error`; a failing set does not stop the sweep.
    """
    idle = list(range(crew.size))
    running: dict[int, Params] = {}
    while True:
        waiting = []
        for worker in idle:
            params = sampler.propose(worker)
            if params is None:
                waiting.append(worker)
            else:
                running[worker] = params
                crew.send(worker, params)
        idle = waiting
        if not running:
            return
        for outcome in crew.wait():
            row = _row(running.pop(outcome.worker), outcome, stamp)
            results.append(row)
            sampler.tell(row)
            idle.append(outcome.worker)
            yield row


def _row(params: Params, outcome: Outcome, stamp: Plain) -> Row:
    row: Row = {"params": params, **stamp}
    if outcome.result is None:
        return {**row, "error": outcome.error}
    return {**row, "result": without_nan(outcome.result)}


def without_nan(value: Any) -> Any:
    """Return plain data with None for every float that JSON has no word for."""
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: without_nan(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(one) for one in value]
    return value
