"""Artifacts: found by age and range, whole or not there, never outside their folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from qmtl.engine.clock import VirtualClock
from qmtl.metrics import SEAMLESS
from qmtl.runtime.io.artifacts import ArtifactReader, ArtifactRegistrar, encode_part
from qmtl.runtime.sdk.fingerprint import fingerprint
from qmtl.runtime.sdk.history import ArtifactCorruptError, ArtifactNotFoundError
from qmtl.runtime.sdk.ohlcv_nodeid import NodeIdError, build, build_trades

assert_same = partial(assert_frame_equal, check_exact=True)

NODE = "ohlcv:binanceusdm:BTC/USDT%3AUSDT:1m"
START, NOW = 1_706_745_600, 1_800_000_000


def bars(count: int = 5, start: int = START, price: float = 2.0) -> pl.DataFrame:
    ts = pl.Series("ts", range(start, start + 60 * count, 60), pl.Int64)
    return pl.DataFrame([ts]).with_columns(
        open=pl.lit(price), high=price + 1, low=price / 2, close=price + 0.5, volume=pl.lit(10.0)
    )


def told(start: int = START, end: int = START + 300, **more: Any) -> dict[str, Any]:
    return {"node_id": NODE, "interval": 60, "requested_range": (start, end), **more}


def at(second: int, base: Path) -> ArtifactRegistrar:
    return ArtifactRegistrar(base, clock=VirtualClock(second * 1000))


def test_what_was_published_is_read_back(tmp_path: Path) -> None:
    base = tmp_path / "artifacts"
    registrar = at(NOW, base)
    assert not base.exists(), "a constructor does no I/O"
    metadata = SimpleNamespace(
        **told(),
        coverage_bounds=[(START - 600, START + 120), (START + 180, START + 900)],
        confirmed_empty=[(START + 120, START + 180, True)],
        stable_until=START + 240,
        conformance_flags={"gap": 1},
        conformance_warnings=("gap: 1 cells are missing",),
        conformance_version="v2",
        world_id=None,
        execution_domain="backtest",
    )
    published = registrar.publish(bars(), metadata, stabilization_bars=2)
    stable = bars(4)
    assert published.as_of == NOW
    assert published.fingerprint == fingerprint(
        stable, node_id=NODE, interval=60, start=START, end=START + 240
    )
    reader = ArtifactReader(base)
    assert_same(reader.open(published.fingerprint), stable)
    manifest = reader.manifest(published.fingerprint)
    assert {name: manifest[name] for name in manifest if name not in {"data", "producer"}} == {
        "node_id": NODE,
        "interval": 60,
        "range": [START, START + 240],
        "rows": 4,
        "coverage": [[START, START + 120], [START + 180, START + 240]],
        "confirmed_empty": [[START + 120, START + 180]],
        "dataset_fingerprint": published.fingerprint,
        "as_of": NOW,
        "conformance": {"flags": {"gap": 1}, "warnings": ["gap: 1 cells are missing"], "version": "v2"},
        "stabilization_bars": 2,
        "stable_until": START + 240,
        "version": "v2",
    }
    folder = base / "ohlcv/exchange=binanceusdm/symbol=BTC%2FUSDT%3AUSDT/timeframe=1m"
    assert published.manifest_uri == reader.manifest_uri(published.fingerprint)
    assert Path(unquote(published.manifest_uri.removeprefix("file://"))) == (
        folder / published.fingerprint.replace(":", "-") / "manifest.json"
    )
    catalog = base / "catalog/ohlcv%3Abinanceusdm%3ABTC%2FUSDT%253AUSDT%3A1m/60"
    assert [file.name for file in catalog.iterdir()] == [f"{NOW}.json"]


def test_the_newest_of_an_age_that_covers_the_range_is_resolved(tmp_path: Path) -> None:
    first = at(NOW, tmp_path).publish(bars(), told())
    narrow = at(NOW + 10, tmp_path).publish(bars(2, price=3.0), told(end=START + 120))
    second = at(NOW + 20, tmp_path).publish(bars(price=4.0), told())
    reader = ArtifactReader(tmp_path)

    def resolve(as_of: int, start: int = START, end: int = START + 300) -> str:
        return reader.resolve(NODE, 60, as_of, start, end)

    assert resolve(NOW) == resolve(NOW + 19) == first.fingerprint
    assert resolve(NOW + 20) == resolve(2 * NOW) == second.fingerprint
    assert resolve(NOW + 15, START + 60, START + 120) == narrow.fingerprint
    assert resolve(NOW + 15, START + 60, START + 180) == first.fingerprint
    for as_of, start, end in (
        (NOW - 1, START, START + 300),
        (NOW, START - 60, START + 60),
        (NOW, START, START + 360),
    ):
        with pytest.raises(ArtifactNotFoundError, match=rf"as of {as_of} covers \[{start}, {end}\)"):
            resolve(as_of, start, end)
    with pytest.raises(ArtifactNotFoundError):
        reader.resolve(build("binance", "ETH/USDT", "1m"), 60, NOW, START, START + 60)


def test_a_second_is_used_once_and_the_same_rows_are_published_once(tmp_path: Path) -> None:
    published = [at(NOW, tmp_path).publish(bars(price=price), told()) for price in (2.0, 3.0, 3.0, 4.0)]
    assert [one.as_of for one in published] == [NOW, NOW + 1, NOW + 1, NOW + 2]
    assert at(NOW + 50, tmp_path).publish(bars(price=4.0), told()) == published[-1]
    # Storage went back to what it once was: that is news again, and the old folder serves it.
    back = at(NOW + 60, tmp_path).publish(bars(price=2.0), told())
    assert (back.fingerprint, back.as_of) == (published[0].fingerprint, NOW + 60)
    reader = ArtifactReader(tmp_path)
    assert reader.manifest(back.fingerprint)["as_of"] == NOW
    assert [entry.as_of for entry in reader.entries(NODE, 60)] == [NOW + 60, NOW + 2, NOW + 1, NOW]
    assert reader.faults(NODE, 60) == []


def test_worlds_have_folders_of_their_own(tmp_path: Path) -> None:
    metadata = told(world_id="w/1", execution_domain="shadow")
    published = at(NOW, tmp_path).publish(bars(), metadata)
    assert (tmp_path / "world=w%2F1/execution_domain=shadow/ohlcv").is_dir()
    assert ArtifactReader(tmp_path).open(published.fingerprint).height == 5


def test_trades_are_published_too(tmp_path: Path) -> None:
    node = build_trades("binance", "BTC/USDT")
    rows = {"ts": [START], "ts_ms": [START * 1000], "id": ["a"], "price": [1.0], "amount": [2.0]}
    frame = pl.DataFrame({**rows, "side": [None]}, schema_overrides={"side": pl.String})
    metadata = {"node_id": node, "interval": 3_600, "requested_range": (START, START + 3_600)}
    published = at(NOW, tmp_path).publish(frame, metadata)
    assert_same(ArtifactReader(tmp_path).open(published.fingerprint), frame)


def test_nothing_at_all_is_an_artifact_and_rows_before_the_range_are_none(tmp_path: Path) -> None:
    published = at(NOW, tmp_path).publish(bars(0), told(stable_until=START - 60))
    assert ArtifactReader(tmp_path).manifest(published.fingerprint)["range"] == [START, START]
    with pytest.raises(ValueError, match=f"{NODE}: rows before {START}, where the range starts"):
        at(NOW, tmp_path).publish(bars(start=START - 60), told())


def test_publishing_is_measured(tmp_path: Path) -> None:
    labels = {"node_id": SEAMLESS.node(NODE), "interval": "60"}
    before = SEAMLESS.registry.get_sample_value("artifact_publish_latency_seconds_count", labels) or 0
    bytes_before = SEAMLESS.registry.get_sample_value(
        "artifact_bytes_written_total", {"node_id": labels["node_id"]}
    )
    at(NOW, tmp_path).publish(bars(7, price=7.0), told(end=START + 420))
    assert SEAMLESS.registry.get_sample_value("artifact_publish_latency_seconds_count", labels) == before + 1
    after = SEAMLESS.registry.get_sample_value("artifact_bytes_written_total", {"node_id": labels["node_id"]})
    written = sum(file.stat().st_size for file in (tmp_path / "ohlcv").rglob("*.*") if file.is_file())
    assert (after or 0) - (bytes_before or 0) == written


def flipped(path: Path, place: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[place % len(raw)] ^= 1 << (place % 8)
    path.write_bytes(raw)


@pytest.mark.chaos
def test_35_a_flipped_byte_is_noticed(
    tmp_path: Path, count: Callable[[int, int], int], request: pytest.FixtureRequest
) -> None:
    published = at(NOW, tmp_path).publish(bars(), told())
    reader = ArtifactReader(tmp_path)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {"data.parquet", "manifest.json", f"{NOW}.json"}
    for path in files:
        whole = path.read_bytes()
        step = max(1, len(whole) // count(40, len(whole)))
        for place in range(0, len(whole), step):
            flipped(path, place)
            with pytest.raises(ArtifactCorruptError, match=path.name):
                reader.open(reader.resolve(NODE, 60, NOW, START, START + 60))
            assert len(reader.faults(NODE, 60)) == 1
            path.write_bytes(whole)
    assert reader.faults(NODE, 60) == []
    # Publishing the same rows again mends what was harmed.
    flipped(next(path for path in files if path.name == "data.parquet"), 100)
    at(NOW + 5, tmp_path).publish(bars(), told())
    assert_same(reader.open(published.fingerprint), bars())
    assert reader.manifest(published.fingerprint)["as_of"] == NOW


def test_35_a_missing_file_and_a_bad_name_are_told_apart(tmp_path: Path) -> None:
    published = at(NOW, tmp_path).publish(bars(), told())
    reader = ArtifactReader(tmp_path)
    next(tmp_path.rglob("data.parquet")).unlink()
    with pytest.raises(ArtifactCorruptError, match=r"data.parquet: is missing"):
        reader.open(published.fingerprint)
    for name in ("sha256:" + "0" * 64, "../../etc", "sha256-*"):
        with pytest.raises(ArtifactNotFoundError):
            reader.open(name)


def test_a_rewritten_manifest_does_not_pass_as_another(tmp_path: Path) -> None:
    first = at(NOW, tmp_path).publish(bars(), told())
    second = at(NOW, tmp_path).publish(bars(price=3.0), told())
    folders = {name: path.parent for path in tmp_path.rglob("manifest.json") for name in [path.parent.name]}
    source = folders[second.fingerprint.replace(":", "-")]
    target = folders[first.fingerprint.replace(":", "-")]
    for name in ("data.parquet", "manifest.json"):
        (target / name).write_bytes((source / name).read_bytes())
    with pytest.raises(ArtifactCorruptError, match="holds the rows of"):
        ArtifactReader(tmp_path).open(first.fingerprint)


HOSTILE = ["..", "../../x", "a\\b", "/etc/x", "%2E%2E", "a" * 300, "é" * 60, "~", "a/../../b", ".", "con."]


@pytest.mark.parametrize("symbol", HOSTILE)
def test_36_no_symbol_leaves_the_folder(tmp_path: Path, symbol: str) -> None:
    base = tmp_path / "deep" / "artifacts"
    node = build("binance", symbol, "1m", escape=True)
    metadata = {**told(world_id=symbol, execution_domain=symbol), "node_id": node}
    published = at(NOW, base).publish(bars(), metadata)
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["artifacts"]
    assert all(len(part) < 120 for path in base.rglob("*") for part in path.parts)
    reader = ArtifactReader(base)
    assert reader.resolve(node, 60, NOW, START, START + 300) == published.fingerprint
    assert reader.open(published.fingerprint).height == 5


def test_36_a_symbol_with_a_nul_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for node in ("ohlcv:binance:BTC\0USDT:1m", "ohlcv:binance:BTC:USDT:1m", "../x"):
        with pytest.raises(NodeIdError):
            at(NOW, tmp_path / "base").publish(bars(), {**told(), "node_id": node})
    at(NOW, tmp_path / "base").publish(bars(), told(world_id="a\0b", execution_domain="\udc80"))
    assert [path.name for path in tmp_path.iterdir()] == ["base"]


@pytest.mark.fuzz
@given(st.text(max_size=400), st.text(max_size=400))
def test_36_a_part_of_a_path_is_harmless_and_short(one: str, other: str) -> None:
    part = encode_part(one)
    assert len(part) <= 100
    assert not set(part) & set("/\\.\0:*?<>|\"' ")
    assert (part == encode_part(other)) == (one == other)


def test_a_catalogue_of_another_series_is_not_read(tmp_path: Path) -> None:
    """What a file system that ignores case would show."""
    at(NOW, tmp_path).publish(bars(), told())
    catalog = tmp_path / "catalog"
    folder = next(catalog.iterdir())
    lower = build("binanceusdm", "btc/USDT:USDT", "1m", escape=True)
    folder.rename(catalog / encode_part(lower))
    assert list(ArtifactReader(tmp_path).entries(lower, 60)) == []
    entry = next(catalog.rglob("*.json"))
    assert json.loads(entry.read_text())["node_id"] == NODE
