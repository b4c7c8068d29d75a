"""Damaged segments of the embedded store are named, never served, and can be replaced."""

from pathlib import Path

import pytest

from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.sdk.history import SeriesKey, StoreError
from tests.contracts.history_rows import MINUTES, MONTH_END, SECONDS, TRADES, bars, minutes, spans, trades

M = MONTH_END
ALL = (0, 2**33)


def files(store: EmbeddedStore) -> list[Path]:
    return sorted(path for path in store.path.glob("segments/**/*") if path.is_file())


async def filled(path: Path) -> EmbeddedStore:
    """A store with ten bars across the end of a month."""
    store = EmbeddedStore(path)
    await store.write(MINUTES, minutes(M - 300, 10), covered=[(M - 300, M + 300)])
    return store


async def test_42_verify_names_the_flipped_segment(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    await store.write(SECONDS, bars(range(M, M + 10)), covered=[])
    assert await store.verify() == []
    bad = files(store)[1]
    for position in (0, bad.stat().st_size // 2, bad.stat().st_size - 1):
        flip(bad, position)
        (fault,) = await store.verify()
        assert (fault.key, fault.start, fault.path) == (MINUTES, M, bad)
        assert fault.reason == "does not match its hash"
        assert await store.verify(SECONDS) == []
        assert await store.verify(MINUTES) == [fault]
        flip(bad, position)
    assert await store.verify() == []
    await store.aclose()


@pytest.mark.parametrize("key", [MINUTES, TRADES], ids=["bars", "trades"])
async def test_damage_is_neither_read_nor_given_a_fresh_hash(tmp_path: Path, key: SeriesKey) -> None:
    rows = minutes(M, 20) if key == MINUTES else trades([(M * 1000 + n, f"{n:030}", 1.0) for n in range(20)])
    more = minutes(M + 1200, 1) if key == MINUTES else trades([(M * 1000 + 99, "99", 1.0)])
    store = EmbeddedStore(tmp_path)
    await store.write(key, rows, covered=[(M, M + 1200)])
    await store.aclose()
    (bad,) = files(store)
    for position in range(0, bad.stat().st_size, 61):
        flip(bad, position)
        store = EmbeddedStore(tmp_path)
        with pytest.raises(StoreError, match=f"{bad.name} does not match its hash; run qmtl data verify"):
            await store.read(key, *ALL)
        with pytest.raises(StoreError, match=f"{bad.name} does not match its hash"):
            await store.write(key, more, covered=[(M, M + 3600)])
        assert await store.coverage(key) == spans((M, M + 1200, "rows"))
        await store.aclose()
        flip(bad, position)
    store = EmbeddedStore(tmp_path)
    await store.write(key, more, covered=[])
    assert (await store.read(key, *ALL)).height == 21
    await store.aclose()


async def test_a_damaged_segment_can_be_forgotten_and_written_again(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    await store.mark_empty(MINUTES, [(M + 300, M + 600)], permanent=True)
    flip(files(store)[1], 200)
    (fault,) = await store.verify()
    month = (M, M + 29 * 86_400)
    assert (fault.start, fault.end) == month
    assert await store.forget(fault.key, fault.start, fault.end) == [month]
    assert await store.verify() == []
    assert await store.coverage(MINUTES) == spans((M - 300, M, "rows"))
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M - 300, 5))
    await store.write(MINUTES, minutes(M, 5), covered=[(M, M + 300)])
    assert (await store.read(MINUTES, *ALL)).equals(minutes(M - 300, 10))
    assert await store.forget(SECONDS, 0, 2**33) == []
    assert len(files(store)) == 2
    await store.aclose()


async def test_a_segment_cut_short_or_lost_is_an_error_that_names_it(tmp_path: Path) -> None:
    store = await filled(tmp_path)
    bad = files(store)[1]
    body = bad.read_bytes()
    bad.write_bytes(body[:100])
    with pytest.raises(StoreError, match=f"{bad.name} has 100 bytes, not {len(body)}"):
        await store.read(MINUTES, *ALL)
    assert [fault.reason for fault in await store.verify()] == [f"has 100 bytes, not {len(body)}"]
    bad.write_bytes(bytes(len(body)))
    with pytest.raises(StoreError, match=f"{bad.name} is not readable"):
        await store.read(MINUTES, *ALL)
    bad.unlink()
    with pytest.raises(StoreError, match=f"{bad.name} is missing"):
        await store.read(MINUTES, *ALL)
    assert [fault.reason for fault in await store.verify()] == ["cannot be read: No such file or directory"]
    assert (await store.read(MINUTES, 0, M)).equals(minutes(M - 300, 5))
    await store.aclose()


def flip(path: Path, position: int) -> None:
    body = bytearray(path.read_bytes())
    body[position] ^= 1
    path.write_bytes(body)
