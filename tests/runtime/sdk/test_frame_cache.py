"""Rows kept in memory: by bytes, by time, never two answers for one cell."""

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from qmtl.runtime.sdk.frame_cache import CachedPiece, FrameCache, cut_frame
from qmtl.runtime.sdk.history import SeriesKey
from tests.runtime.sdk.history_rig import KEY, T0, bars, times

OTHER = SeriesKey("ohlcv:binance:ETH/USDT:1m", 60)


def piece(first: int, last: int, seed: float = 0.0) -> CachedPiece:
    start, end = T0 + 60 * first, T0 + 60 * last
    return CachedPiece(start, end, bars(range(start, end, 60), seed), [])


def test_the_least_recently_used_goes_first() -> None:
    size = int(piece(0, 10).frame.estimated_size())
    cache = FrameCache(ttl_ms=1000, max_bytes=2 * size)
    cache.put(KEY, piece(0, 10), 0)
    cache.put(OTHER, piece(0, 10), 0)
    assert cache.find(KEY, T0, T0 + 600, 0)
    cache.put(KEY, piece(20, 30), 0)
    assert cache.find(OTHER, T0, T0 + 600, 0) == []
    assert cache.resident_bytes == 2 * size
    cache.put(KEY, piece(40, 80), 0)
    assert cache.find(KEY, T0 + 2400, T0 + 4800, 0) == [], "larger than the whole cache"
    cache.clear()
    assert cache.resident_bytes == 0


def test_pieces_end_with_their_time_and_with_a_write() -> None:
    cache = FrameCache(ttl_ms=1000, max_bytes=2**20)
    cache.put(KEY, piece(0, 10), 0)
    assert cache.find(KEY, T0, T0 + 600, 999)
    assert cache.find(KEY, T0, T0 + 600, 1000) == []
    cache.put(KEY, piece(0, 10), 0)
    cache.forget(KEY, [(T0 + 600, T0 + 660)])
    assert cache.find(KEY, T0, T0 + 600, 0)
    cache.forget(KEY, [(T0 + 540, T0 + 660)])
    assert cache.find(KEY, T0, T0 + 600, 0) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 12)), max_size=12), st.integers(0, 30))
def test_a_cell_has_one_answer_the_latest(puts: list[tuple[int, int]], at: int) -> None:
    cache = FrameCache(ttl_ms=1000, max_bytes=2**20)
    for number, (first, width) in enumerate(puts):
        cache.put(KEY, piece(first, first + width, float(number)), 0)
    found = cache.find(KEY, T0 + 60 * at, T0 + 60 * (at + 5), 0)
    cells = [ts for one in found for ts in times(one.frame)]
    assert cells == sorted(set(cells))
    assert all(T0 + 60 * at <= ts < T0 + 60 * (at + 5) for ts in cells)
    for one in found:
        for ts, close in one.frame.select("ts", "close").rows():
            newest = max(
                n for n, (first, width) in enumerate(puts) if first <= (ts - T0) // 60 < first + width
            )
            assert close == 100.5 + newest


def test_cutting_keeps_ascending_rows() -> None:
    frame = bars(range(T0, T0 + 600, 60))
    assert times(cut_frame(frame, T0 + 30, T0 + 130)) == [T0 + 60, T0 + 120]
    assert cut_frame(frame, T0, T0 + 600) is frame
    assert times(cut_frame(frame, T0 + 900, T0 + 1200)) == []
    assert times(cut_frame(frame.clear(), T0, T0 + 60)) == []


def test_two_threads_may_share_it() -> None:
    cache = FrameCache(ttl_ms=1000, max_bytes=2**16)

    def work(seed: int) -> None:
        for number in range(300):
            cache.put(KEY, piece((number * seed) % 40, (number * seed) % 40 + 5), 0)
            cache.find(KEY, T0, T0 + 3000, number % 3 * 1000)
            cache.forget(KEY, [(T0, T0 + 600)])

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(work, (1, 7))) == [None, None]
    cache.clear()
    assert cache.resident_bytes == 0
