"""`qmtl parity`: an unmodified day is equal; a planted late bar and a planted fee are named."""

import json
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from qmtl.cli.places import Places
from qmtl.config import load
from qmtl.core.event import BarClosed, OrderFilled, PriceUpdated
from qmtl.core.fees import MakerTakerFeeModel
from qmtl.core.order import Order
from qmtl.engine.journal import SqliteJournal, open_journal, read_events
from qmtl.engine.parity_record import read_breaks, record_path
from qmtl.engine.strategy import Context, SilentStrategy, StrategyPort
from qmtl.engine.venue_models import TickSlippage, VenueModels
from qmtl.metrics import TraderMetrics
from qmtl.runtime.io.history_file import read_bars
from tests.cli.command import run_command
from tests.cli.dry_run import WARMUP, candles, dry_run, ticked

DAY = 1_440
RECORDED = "candles/BTCUSDT_UM_1m_2025-05-04_2025-06-24.feather"


class OneBarLate(SilentStrategy):
    """The fault: a strategy that is handed each live bar when the next one closes."""

    def __init__(self, port: StrategyPort) -> None:
        self._port = port
        self._last: BarClosed | None = None

    def on_bar(self, ctx: Context, bar: BarClosed) -> None:
        if bar.warmup:
            self._port.on_bar(ctx, bar)
            return
        last, self._last = self._last, bar
        if last is not None:
            self._port.on_bar(ctx, last)

    def on_price(self, ctx: Context, update: PriceUpdated) -> None:
        self._port.on_price(ctx, update)

    def on_fill(self, ctx: Context, fill: OrderFilled, order: Order) -> None:
        self._port.on_fill(ctx, fill, order)

    def on_order(self, ctx: Context, order: Order) -> None:
        self._port.on_order(ctx, order)

    def on_timer(self, ctx: Context) -> None:
        self._port.on_timer(ctx)


@pytest.fixture
def day(recorded_file: Callable[[str], Path]) -> list[BarClosed]:
    """The warm-up and one recorded day."""
    rows = read_bars(recorded_file(RECORDED)).head(WARMUP + DAY)
    return list(candles(rows.select("ts", "open", "high", "low", "close", "volume").iter_rows()))


@pytest.fixture
def place(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(home)
    assert run_command("new", "band_break.py").code == 0
    return home


def ask(place: Path, *words: str) -> tuple[int, dict[str, Any], list[str]]:
    """The exit code, the body and the lines of parity over desk.db."""
    told = run_command("parity", "--journal", str(place / "desk.db"), *words)
    asked = run_command("parity", "--journal", str(place / "desk.db"), "--json", *words)
    assert told.code == asked.code, told.error
    return told.code, json.loads(asked.text), told.text.splitlines()


@pytest.mark.recorded
def test_an_unmodified_day_has_no_difference(place: Path, day: list[BarClosed]) -> None:
    dry_run(place / "desk.db", place / "band_break.py", ticked(day))
    code, body, lines = ask(place)
    assert (code, body["is_equal"], body["differences"]) == (0, True, [])
    assert body["decisions"] == body["equal"] == DAY
    assert body["fills"] > 50
    assert lines == [f"1,440/1,440 decisions equal · {body['fills']:,} fills +0 tick (assumed 1)"]


@pytest.mark.recorded
def test_fills_told_again_after_a_reconnect_count_once(place: Path, day: list[BarClosed]) -> None:
    dry_run(place / "desk.db", place / "band_break.py", ticked(day[: WARMUP + 300]))
    whole = ask(place)
    with closing(open_journal(place / "desk.db")) as db:
        told = [event for _, event in read_events(db, place / "desk.db", 0) if isinstance(event, OrderFilled)]
    journal = SqliteJournal(place / "desk.db", "again")
    journal.extend(told[:3])
    journal.close()
    assert ask(place) == whole


@pytest.mark.recorded
def test_slippage_is_measured_beside_what_was_assumed(place: Path, day: list[BarClosed]) -> None:
    models = VenueModels(slippage=TickSlippage(3))
    dry_run(place / "desk.db", place / "band_break.py", ticked(day), models=models)
    code, body, lines = ask(place)
    assert (code, body["slippage"], body["assumed_ticks"]) == (0, 3.0, 1)
    assert lines[0].endswith("fills +3 ticks (assumed 1)")


@pytest.mark.recorded
def test_a_planted_one_bar_delay_is_named(place: Path, day: list[BarClosed]) -> None:
    dry_run(place / "desk.db", place / "band_break.py", ticked(day), change=OneBarLate)
    code, body, lines = ask(place)
    assert code == 3
    assert body["slide"]["words"] == "one bar late"
    assert body["slide"]["decisions"] > 20
    assert abs(body["slippage"] or 0) < 1
    assert lines[1] == f"decisions one bar late: {body['slide']['decisions']}"
    assert body["fees"] == []


@pytest.mark.recorded
def test_breaks_of_the_accounts_own_journal_reach_the_metrics_of_its_trader(
    place: Path, day: list[BarClosed]
) -> None:
    own = Places.of(load(), None).journal
    own.parent.mkdir(parents=True, exist_ok=True)
    dry_run(own, place / "band_break.py", ticked(day[: WARMUP + 300]), change=OneBarLate)
    metrics, scraped = TraderMetrics(), b"qmtl_parity_breaks_total %d.0"
    metrics.show({"parity_breaks": read_breaks(own)})
    assert scraped % 0 in metrics.render()
    answer = run_command("parity", "--json")
    found = len(json.loads(answer.text)["differences"])
    assert (answer.code, found > 0) == (3, True)
    metrics.show({"parity_breaks": read_breaks(own)})
    assert scraped % found in metrics.render()
    metrics.show({"parity_breaks": read_breaks(own)})
    assert scraped % found in metrics.render()
    own.rename(place / "desk.db")
    assert run_command("parity", "--journal", str(place / "desk.db")).code == 3
    assert not record_path(place / "desk.db").exists()


@pytest.mark.recorded
def test_a_planted_fee_change_is_named(place: Path, day: list[BarClosed]) -> None:
    fees = MakerTakerFeeModel(Decimal("0.0002"), Decimal("0.0005"))
    dry_run(place / "desk.db", place / "band_break.py", ticked(day), models=VenueModels(fees=fees))
    code, body, lines = ask(place)
    assert (code, body["differences"], body["slide"]) == (3, [], None)
    (broken,) = body["fees"]
    assert lines[1] == f"fees 0.05 % where 0.04 % was assumed: {broken['fills']} of {body['fills']} fills"


@pytest.mark.recorded
def test_a_part_of_a_sealed_journal_begins_where_it_stood(place: Path, day: list[BarClosed]) -> None:
    """The period starts behind a snapshot, its market data lie in a sealed segment."""
    dry_run(place / "desk.db", place / "band_break.py", ticked(day), checkpoint_every=100)
    whole = ask(place)
    journal = SqliteJournal(place / "desk.db", "sealing")
    journal.seal(day[-1].ts_ms // 86_400_000 + 1)
    journal.close()
    assert (place / "desk.db.segments").is_dir()
    assert ask(place) == whole
    code, body, _ = ask(place, "--last", "6h")
    assert (code, body["decisions"], body["equal"]) == (0, 360, 360)
    assert 0 < body["fills"] < whole[1]["fills"]


def test_bad_input_is_one_line(place: Path, day: list[BarClosed]) -> None:
    path = place / "desk.db"
    assert run_command("parity", "--last", "soon").error.startswith("error: --last: found 'soon'")
    missing = run_command("parity", "--journal", "none.db")
    assert (missing.code, missing.error) == (2, "error: none.db: no such journal")
    dry_run(path, place / "band_break.py", ticked(day[:WARMUP]))
    empty = run_command("parity", "--journal", str(path))
    assert (empty.code, empty.text) == (2, "")
    assert empty.error == f"error: {path}: no bar was decided live in the last 24h that it holds"
