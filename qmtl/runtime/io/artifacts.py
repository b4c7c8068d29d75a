"""Artifacts: the exact rows of an answer, named by their fingerprint, found again by age and range.

Data come first, then the manifest, the catalogue's entry last, each made durable beside its place and moved
there: whatever a crash leaves is complete or not there.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from qmtl import __version__
from qmtl.core.ranges import Range, clip_ranges, merge_ranges
from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.sealed_file import (
    SealError,
    create_file,
    locked,
    make_folder,
    replace_file,
    seal,
    unseal,
)
from qmtl.runtime.sdk.fingerprint import DATASET_VERSION, fingerprint
from qmtl.runtime.sdk.history import ArtifactCorruptError, ArtifactNotFoundError
from qmtl.runtime.sdk.ohlcv_nodeid import parse_node_id

if TYPE_CHECKING:
    import polars as pl

_DATA, _MANIFEST = "data.parquet", "manifest.json"
_PART_BYTES = 100
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")


class Published(NamedTuple):
    """An artifact as it can be asked for: its fingerprint, the second it counts from, its manifest."""

    fingerprint: str
    as_of: int
    manifest_uri: str


class CatalogEntry(NamedTuple):
    """What the catalogue says of one publication; its range is [start, end)."""

    as_of: int
    fingerprint: str
    start: int
    end: int


class _Told:
    """What a FetchMetadata, or a mapping with its names, says of an answer."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata
        self.node_id = str(self("node_id"))
        self.interval = int(self("interval"))
        start, end = self("requested_range")
        stable_until = self("stable_until")
        self.start = int(start)
        self.end = max(self.start, int(end) if stable_until is None else min(int(end), int(stable_until)))

    def __call__(self, name: str) -> Any:
        if isinstance(self._metadata, Mapping):
            return self._metadata.get(name)
        return getattr(self._metadata, name, None)

    def ranges(self, name: str) -> list[Range]:
        """Return ranges, clipped to the stable part."""
        return clip_ranges(
            merge_ranges((span[0], span[1]) for span in self(name) or ()), self.start, self.end
        )

    def place(self) -> Path:
        """Return the folder of the series, from the base."""
        world, domain = self("world_id"), self("execution_domain")
        place = _series_place(self.node_id)
        if world is None:
            return place
        return Path(f"world={encode_part(str(world))}", f"execution_domain={encode_part(str(domain))}", place)

    def manifest(self, name: str, rows: int, stabilization_bars: int) -> dict[str, Any]:
        """Return what the manifest says, `as_of` and the data file apart."""
        flags, warnings = self("conformance_flags"), self("conformance_warnings")
        return {
            "node_id": self.node_id,
            "interval": self.interval,
            "range": [self.start, self.end],
            "rows": rows,
            "coverage": self.ranges("coverage_bounds"),
            "confirmed_empty": self.ranges("confirmed_empty"),
            "dataset_fingerprint": name,
            "conformance": {
                "flags": dict(flags or {}),
                "warnings": list(warnings or ()),
                "version": self("conformance_version") or DATASET_VERSION,
            },
            "stabilization_bars": stabilization_bars,
            "stable_until": self.end,
            "producer": f"qmtl {__version__}",
            "version": DATASET_VERSION,
        }


class ArtifactRegistrar:
    """Publishes artifacts below `base_dir`, which the first publication makes."""

    def __init__(self, base_dir: str | Path, *, clock: Clock | None = None) -> None:
        self.base_dir = Path(base_dir).expanduser()
        self.reader = ArtifactReader(self.base_dir)
        self._clock = clock or SystemClock()

    def publish(self, frame: "pl.DataFrame", metadata: Any, *, stabilization_bars: int = 0) -> Published:
        """Store the stable rows of an answer and return how to ask for them again.

        `metadata` is a FetchMetadata or a mapping with its names: node_id, interval, requested_range, and
        where known coverage_bounds, confirmed_empty, stable_until, conformance_*, world_id,
        execution_domain. Rows that are the newest answer for their range already are not published again.
        NodeIdError for a bad node id, ValueError for rows before the range; OSError when nothing can be
        stored.
        """
        began_ms = self._clock.real_ms()
        told = _Told(metadata)
        rows = frame.filter(frame["ts"] < told.end)
        if (rows["ts"] < told.start).any():
            raise ValueError(f"{told.node_id}: rows before {told.start}, where the range starts")
        span: dict[str, Any] = {
            "node_id": told.node_id,
            "interval": told.interval,
            "start": told.start,
            "end": told.end,
        }
        name = fingerprint(rows, **span)
        folder = self.base_dir / told.place() / name.replace(":", "-")
        catalog = _catalog_place(self.base_dir, told.node_id, told.interval)
        make_folder(folder)
        make_folder(catalog)
        with locked(catalog), locked(folder):
            as_of = self._free_second(catalog)
            newest = self.reader.find(told.node_id, told.interval, None, told.start, told.end)
            is_newest = newest is not None and newest.fingerprint == name
            if not _is_whole(folder):
                manifest = told.manifest(name, rows.height, stabilization_bars)
                manifest["as_of"] = newest.as_of if newest is not None and is_newest else as_of
                self._store(folder, rows, manifest)
            if newest is not None and is_newest:
                as_of = newest.as_of
            else:
                create_file(catalog / f"{as_of}.json", seal({**span, "fingerprint": name}))
        labels = SEAMLESS.series(told.node_id, told.interval)
        SEAMLESS.artifact_publish_latency.labels(*labels).observe((self._clock.real_ms() - began_ms) / 1000)
        return Published(name, as_of, (folder / _MANIFEST).resolve().as_uri())

    def _free_second(self, catalog: Path) -> int:
        """Return this second, or the next that no publication has; the catalogue's lock keeps it free."""
        second = self._clock.now_ms() // 1000
        while (catalog / f"{second}.json").exists():
            second += 1
        return second

    def _store(self, folder: Path, rows: "pl.DataFrame", manifest: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        rows.write_parquet(buffer, compression="zstd")
        data = buffer.getvalue()
        replace_file(folder / _DATA, data)
        manifest["data"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        sealed = seal(manifest)
        replace_file(folder / _MANIFEST, sealed)
        node = SEAMLESS.node(str(manifest["node_id"]))
        SEAMLESS.artifact_bytes.labels(node).inc(len(data) + len(sealed))


class ArtifactReader:
    """Finds and opens what a registrar published below `base_dir`."""

    def __init__(self, base_dir: str | Path) -> None:
        self.base_dir = Path(base_dir).expanduser()

    def resolve(self, node_id: str, interval: int, as_of: int, start: int, end: int) -> str:
        """Return the fingerprint of the newest artifact, of `as_of` or before, that covers [start, end).

        ArtifactNotFoundError when there is none, ArtifactCorruptError for a damaged catalogue.
        """
        found = self.find(node_id, interval, as_of, start, end)
        if found is None:
            raise ArtifactNotFoundError(f"{node_id}: no artifact as of {as_of} covers [{start}, {end})")
        return found.fingerprint

    def find(
        self, node_id: str, interval: int, as_of: int | None, start: int, end: int
    ) -> CatalogEntry | None:
        """Return the entry `resolve` goes by, None when there is none; without `as_of` the newest."""
        covering = (e for e in self.entries(node_id, interval, as_of) if e.start <= start and end <= e.end)
        return next(covering, None)

    def entries(self, node_id: str, interval: int, as_of: int | None = None) -> Iterator[CatalogEntry]:
        """Yield what is catalogued of a series, newest first, nothing younger than `as_of`."""
        folder = _catalog_place(self.base_dir, node_id, interval)
        try:
            names = [path.name for path in folder.iterdir()]
        except FileNotFoundError:
            return
        seconds = (int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())
        for second in sorted(seconds, reverse=True):
            if as_of is None or second <= as_of:
                body = _read(folder / f"{second}.json")
                # A file system that ignores case shows another series' entries here.
                if body["node_id"] == node_id:
                    yield CatalogEntry(second, body["fingerprint"], body["start"], body["end"])

    def open(self, fingerprint: str) -> "pl.DataFrame":
        """Return the rows of an artifact, proven to be those it is named by.

        ArtifactNotFoundError when it is not here, ArtifactCorruptError when any byte differs.
        """
        import polars as pl

        folder = self._folder(fingerprint)
        manifest, path = _read(folder / _MANIFEST), folder / _DATA
        data = _bytes(path)
        if hashlib.sha256(data).hexdigest() != manifest["data"]["sha256"]:
            raise ArtifactCorruptError(f"{path}: its bytes are not those that were published")
        frame = pl.read_parquet(io.BytesIO(data))
        found = _name_of(frame, manifest)
        if found != fingerprint or manifest["dataset_fingerprint"] != fingerprint:
            raise ArtifactCorruptError(f"{path}: holds the rows of {found}")
        return frame

    def manifest(self, fingerprint: str) -> dict[str, Any]:
        """Return the manifest of an artifact; errors as `open`."""
        return _read(self._folder(fingerprint) / _MANIFEST)

    def manifest_uri(self, fingerprint: str) -> str:
        """Return where the manifest lies; ArtifactNotFoundError."""
        return (self._folder(fingerprint) / _MANIFEST).resolve().as_uri()

    def faults(self, node_id: str, interval: int) -> list[str]:
        """Return what is wrong with the artifacts of a series, one line each."""
        lines: list[str] = []
        try:
            named = {entry.fingerprint for entry in self.entries(node_id, interval)}
        except ArtifactCorruptError as error:
            return [str(error)]
        for name in sorted(named):
            try:
                self.open(name)
            except (ArtifactCorruptError, ArtifactNotFoundError) as error:
                lines.append(str(error))
        return lines

    def _folder(self, fingerprint: str) -> Path:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise ArtifactNotFoundError(f"{fingerprint!r} is no fingerprint; expected sha256: and 64 digits")
        series = f"*/exchange=*/symbol=*/timeframe=*/{fingerprint.replace(':', '-')}"
        for pattern in (series, f"world=*/execution_domain=*/{series}"):
            for folder in self.base_dir.glob(pattern):
                if (folder / _MANIFEST).exists():
                    return folder
        raise ArtifactNotFoundError(f"no artifact {fingerprint} below {self.base_dir}")


def encode_part(text: str) -> str:
    """Return a text as one harmless part of a path: all but letters, digits, `_` and `-` as %XX.

    What would be longer than 100 bytes becomes its BLAKE2b in hex.
    """
    raw = text.encode("utf-8", "surrogatepass")
    encoded = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    return encoded if len(encoded) <= _PART_BYTES else hashlib.blake2b(raw, digest_size=32).hexdigest()


def _series_place(node_id: str) -> Path:
    named = parse_node_id(node_id)
    parts = (
        ("exchange", named.exchange),
        ("symbol", named.symbol),
        ("timeframe", named.timeframe or "trades"),
    )
    return Path(named.kind, *(f"{key}={encode_part(value)}" for key, value in parts))


def _catalog_place(base_dir: Path, node_id: str, interval: int) -> Path:
    return base_dir / "catalog" / encode_part(node_id) / str(int(interval))


def _name_of(frame: "pl.DataFrame", manifest: Mapping[str, Any]) -> str:
    start, end = manifest["range"]
    return fingerprint(
        frame,
        node_id=manifest["node_id"],
        interval=manifest["interval"],
        start=start,
        end=end,
        version=manifest["version"],
    )


def _is_whole(folder: Path) -> bool:
    """Tell whether a folder holds an artifact already, its data unharmed."""
    try:
        told = unseal(folder / _MANIFEST)["data"]["sha256"]
        return bool(hashlib.sha256((folder / _DATA).read_bytes()).hexdigest() == told)
    except (FileNotFoundError, SealError):
        return False


def _read(path: Path) -> dict[str, Any]:
    try:
        return unseal(path)
    except (SealError, FileNotFoundError) as error:
        raise ArtifactCorruptError(f"{path}: {_reason(error, path)}") from error


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactCorruptError(f"{path}: is missing") from error


def _reason(error: Exception, path: Path) -> str:
    return "is missing" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{path}: ")
