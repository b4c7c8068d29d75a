"""The whole trader against the paper exchange: from an empty directory to a journal that replays."""

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest
from aiohttp import web

from qmtl.core.event import AnyEvent, DecisionMade, IntentRecorded, SessionStarted, TradingStateSet
from qmtl.core.order import DomainViolation
from qmtl.core.reason import TradingState
from qmtl.engine.backup import lock_path
from qmtl.engine.halt_marker import HaltMarker, marker_path, write_marker
from qmtl.engine.journal import JournalError, SqliteJournal
from qmtl.engine.loader import load_strategy
from qmtl.engine.replay import replay
from qmtl.runtime.sdk.brokerage.result import VenueUnavailable
from qmtl.services.paper_exchange.faults import FaultKind, FaultRule
from qmtl.trader.prelim import SetupRefusedError
from tests.trader.floor import Floor, floor


def read(path: Path) -> list[AnyEvent]:
    journal = SqliteJournal(path, "reader")
    events = [event for _, event in journal.read()]
    journal.close()
    return events


@pytest.mark.parametrize("fills", ["simulated", "venue"])
async def test_it_trades_and_its_journal_replays_to_the_same_state(tmp_path: Path, fills: str) -> None:
    async with floor(tmp_path, fills) as place:
        async with place.trading() as trader:
            await place.step_until(trader, lambda: trader.desk.status()["counts"].get("fills", 0) >= 4)
            await place.step(trader, 3)
        engine = trader.engine
        status = trader.desk.status()
        assert (status["domain"], status["errors"]) == ("dryrun", [])
        assert engine.account.fees > 0
        if fills == "venue":
            assert engine.account.wallet == place.exchange.exchange.accounts["paper"].core.account.wallet
            assert place.held() == engine.account.net_quantity("BTCUSDT")
    events = read(trader.journal_path)
    live_bars = [e for e in events if isinstance(e, DecisionMade)]
    assert len({bar.open_ms for bar in live_bars}) == len(live_bars)
    replayed = replay(enumerate(events, 1), load_strategy)
    assert replayed is not None
    assert replayed.engine.state_hash() == engine.state_hash()


@pytest.mark.parametrize("fills", ["simulated", "venue"])
async def test_a_restart_goes_on_with_position_and_indicators(tmp_path: Path, fills: str) -> None:
    async with floor(tmp_path, fills) as place:
        async with place.trading() as first:
            await place.step_until(first, lambda: first.engine.account.net_quantity("BTCUSDT"))
        held = first.engine.account.net_quantity("BTCUSDT")
        bars = first.engine.state.bars
        async with place.trading() as second:
            assert second.engine.state.bars == bars
            assert second.engine.strategy.is_warm
            assert second.engine.account.net_quantity("BTCUSDT") == held
            await place.step_until(second, lambda: not second.engine.account.net_quantity("BTCUSDT"))
            assert second.desk.status()["errors"] == []
            assert second.engine.risk.state is TradingState.ACTIVE
        events = read(second.journal_path)
        assert len([e for e in events if isinstance(e, SessionStarted)]) == 2
        epochs = {e.epoch for e in events if isinstance(e, SessionStarted)}
        ids = [e.client_order_id for e in events if isinstance(e, IntentRecorded)]
        assert len(epochs) == 2
        assert len(set(ids)) == len(ids)


async def test_orders_go_over_the_order_socket_where_the_settings_say_so(tmp_path: Path) -> None:
    async with floor(tmp_path, "venue") as place:
        # The other road is closed: what is filled went over the socket.
        for method in ("POST", "DELETE"):
            rule = FaultRule(kind=FaultKind.STATUS, route=f"{method} /fapi/v1/*rder", status=503)
            place.exchange.exchange.faults.add(rule)
        settings = place.settings(account={"order_road": "websocket"})
        async with place.trading(place.make(settings)) as trader:
            await place.step_until(trader, lambda: trader.desk.status()["counts"].get("fills", 0) >= 2)
        assert trader.desk.status()["errors"] == []
        assert place.held() == trader.engine.account.net_quantity("BTCUSDT")


async def test_it_trades_over_ccxt_where_the_settings_say_so(tmp_path: Path) -> None:
    pytest.importorskip("ccxt")
    async with floor(tmp_path, "venue") as place:
        settings = place.settings(account={"client": "ccxt"})
        async with place.trading(place.make(settings)) as trader:
            await place.step_until(trader, lambda: trader.desk.status()["counts"].get("fills", 0) >= 4)
            await place.step(trader, 3)
        engine = trader.engine
        assert trader.desk.status()["errors"] == []
        assert engine.account.wallet == place.exchange.exchange.accounts["paper"].core.account.wallet
        assert place.held() == engine.account.net_quantity("BTCUSDT")
    events = read(trader.journal_path)
    replayed = replay(enumerate(events, 1), load_strategy)
    assert replayed is not None
    assert replayed.engine.state_hash() == engine.state_hash()


async def test_it_ends_after_for_s_and_gives_the_account_back(tmp_path: Path) -> None:
    async with floor(tmp_path) as place:
        trader = place.make()
        await trader.run(for_s=3.0)
        assert trader.engine.risk.entry_bans["reducing"] == "ran for 3 s"
        again = place.make()
        await again.open()
        with pytest.raises(JournalError, match=r"account test is owned by pid \d+ on "):
            await place.make().open()
        await again.aclose()


async def test_collectors_see_what_the_engine_sees(tmp_path: Path) -> None:
    async with floor(tmp_path, "venue") as place:
        async with place.trading(place.make(collects=True)) as trader:
            await place.step_until(trader, lambda: trader.desk.status()["counts"].get("fills", 0) >= 2)
            place.exchange.exchange.hub.disconnect()
            for _ in range(5 * 4):
                place.exchange.exchange.publish_next()
            bars = trader.engine.state.bars
            await place.until(lambda: not trader.parts.feed.watch.ages_s()["user"][1])
            await place.until(lambda: trader.parts.feed.watch.ages_s()["user"][1])
            while trader.engine.state.bars < bars + 6:
                await place.exchange.step()
                await asyncio.sleep(0.005)
            await place.until(lambda: not trader.collectors["kline"].gaps)  # type: ignore[attr-defined]
        orders = trader.collectors["orderUpdate"].getDataFrame()
        filled = orders[orders["orderStatus"] == "FILLED"]
        done = {o.client_order_id for o in trader.engine.state.finished.values() if o.filled}
        assert set(filled["clientOrderId"]) == done
        account = trader.collectors["accountUpdate"].getDataFrame()
        assert float(trader.engine.account.wallet) in list(account["walletBalance"])
        candles = trader.collectors["kline"].getDataFrame()
        assert (candles["startTime"].diff().dropna() == 60_000).all()
        assert len(trader.collectors["markPrice"].getDataFrame()) > 0


async def test_it_begins_halted_where_somebody_halted_the_account_meanwhile(tmp_path: Path) -> None:
    async with floor(tmp_path) as place:
        trader = place.make()
        tmp_path.mkdir(exist_ok=True)
        write_marker(trader.journal_path, HaltMarker("ops@desk", "maintenance", 1))
        async with place.trading(trader):
            assert trader.engine.risk.state is TradingState.HALTED
            await place.step(trader, 40)
            assert trader.desk.status()["counts"].get("orders", 0) == 0
        assert not marker_path(trader.journal_path).exists()
        (halt,) = [e for e in read(trader.journal_path) if isinstance(e, TradingStateSet)]
        assert (halt.who, halt.why) == ("ops@desk", "maintenance")


async def test_an_unreachable_venue_is_one_line_and_nothing_written(tmp_path: Path, free_port: int) -> None:
    place = Floor(tmp_path / "home", "venue")
    place.urls = {"rest": f"http://127.0.0.1:{free_port}", "ws": f"ws://127.0.0.1:{free_port}"}
    with pytest.raises(VenueUnavailable, match=f"^http://127.0.0.1:{free_port}"):
        await place.make().open()
    assert not (tmp_path / "home").exists()


async def test_with_a_position_an_unreachable_venue_is_waited_for(tmp_path: Path) -> None:
    async with floor(tmp_path, "venue") as place:
        async with place.trading() as first:
            await place.step_until(first, lambda: first.engine.account.net_quantity("BTCUSDT"))
        held = first.engine.account.net_quantity("BTCUSDT")
    second = place.make()
    await second.open()
    is_ready, reasons = second.desk.ready()
    assert not is_ready
    assert reasons
    assert second.engine.account.net_quantity("BTCUSDT") == held
    run = asyncio.create_task(second.run())
    await asyncio.sleep(0.1)
    assert not run.done()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert not lock_path(second.journal_path).read_text()


async def test_venue_fills_go_to_a_paper_exchange_or_a_named_test_host_only(tmp_path: Path) -> None:
    async def ping(request: web.Request) -> web.Response:
        return web.json_response({})

    app = web.Application()
    app.router.add_get("/fapi/v1/ping", ping)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        place = Floor(tmp_path / "home", "venue")
        place.urls = {"rest": f"http://127.0.0.1:{port}", "ws": f"ws://127.0.0.1:{port}"}
        with pytest.raises(DomainViolation, match="domain dryrun with fills venue cannot reach a live venue"):
            await place.make().open()
        assert not (tmp_path / "home").exists()
    finally:
        await runner.cleanup()


async def test_a_journal_of_another_domain_or_symbol_is_refused(tmp_path: Path) -> None:
    async with floor(tmp_path) as place:
        async with place.trading() as trader:
            await place.step(trader)
        live = place.settings(
            connectors={"execution_domain": "live"}, risk={"max_daily_loss": 50}, account={"fills": "venue"}
        )
        with pytest.raises(SetupRefusedError, match="is a journal of domain dryrun, not of live"):
            await place.make(live, domain="live", typed_account="test").open()
        unlisted = place.settings(
            trader={"symbol": "NOPEUSDT"}, journal={"directory": str(tmp_path / "other")}
        )
        with pytest.raises(SetupRefusedError, match="symbol NOPEUSDT is not listed"):
            await place.make(unlisted).open()
        assert not (tmp_path / "other").exists()


def test_the_blocking_call_ends_with_ctrl_c(tmp_path: Path) -> None:
    place = Floor(tmp_path, "simulated")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(place.start(), loop).result(60)
    trader = place.make()
    key = threading.Timer(0.6, os.kill, (os.getpid(), signal.SIGINT))
    key.start()
    try:
        trader.trade()
    finally:
        key.join()
        asyncio.run_coroutine_threadsafe(place.exchange.stop(), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
    assert trader.engine.risk.entry_bans["reducing"] == "interrupted"
    assert not lock_path(trader.journal_path).read_text()
