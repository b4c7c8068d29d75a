"""Seamless §16 items 1 and 37: every snippet of the published guide, unchanged, and the example it names."""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from qmtl.engine.clock import SystemClock
from qmtl.services.paper_exchange.app import PaperExchange
from qmtl.services.paper_exchange.settings import MarketSettings, PaperExchangeConfig
from tests.runtime.io.history_rig import KLINES, T0, History, configure, history
from tests.servers import QuestDBServer

__all__ = ["configure", "history"]
ROOT = Path(__file__).resolve().parents[2]
PAGE = Path(__file__).parent / "pages" / "ccxt_seamless.ko.md"
EXAMPLE = ROOT / "examples" / "ccxt_seamless_provider.py"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LATER_S = T0 + 90 * 86_400

SPY = """
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
answers, fetch = [], EnhancedQuestDBProvider.fetch
async def spy(self, *args, **more):
    answers.append(await fetch(self, *args, **more))
    return answers[-1]
EnhancedQuestDBProvider.fetch = spy
"""
TOLD = """
for answer in answers:
    told = answer.metadata
    print([told.rows, answer["ts"][0], answer["ts"][-1], told.conformance_flags, told.missing, told.sources])
print(answers[0].frame.equals(answers[-1].frame), told.dataset_fingerprint)
"""
FETCHER = """
from qmtl.runtime.io import CcxtBackfillConfig, CcxtOHLCVFetcher
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
from qmtl.runtime.sdk.seamless_data_provider import DataAvailabilityStrategy
fetcher = CcxtOHLCVFetcher(CcxtBackfillConfig(exchange="binance", symbols=["BTC/USDT"], timeframe="1m"))
"""


def snippets() -> list[str]:
    return [text for kind, text in FENCE.findall(PAGE.read_text("utf-8")) if kind == "python"]


class Reader:
    """Runs snippets as a reader would, QuestDB where the page has it."""

    def __init__(self, questdb: QuestDBServer, home: Path) -> None:
        self.questdb = questdb
        self.home = home

    async def run(self, rest_url: str, before: str, text: str, after: str) -> list[str]:
        work = {"hosts": {"localhost:8812": self.questdb.port}, "before": [before], "snippets": [text]}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "QMTL_CONNECTORS__CCXT_BASE_URL": rest_url,
            "QMTL_SEAMLESS__QUESTDB_HTTP": self.questdb.http,
        }
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.seeds.snippet_process"),
            cwd=self.home,
            env=environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await asyncio.wait_for(
                child.communicate(json.dumps({**work, "after": [after]}).encode()), 90
            )
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        assert child.returncode == 0, err.decode()
        assert err.decode() == ""
        return [line for line in out.decode().splitlines() if "[warning" not in line]


@pytest.fixture
def reader(questdb_server: QuestDBServer, home: Path) -> Reader:
    return Reader(questdb_server, home)


@pytest.fixture
async def present() -> AsyncIterator[str]:
    """An exchange of the present with a week of history."""
    market = MarketSettings(seed=3, history=5_000)
    async with AsyncExitStack() as stack:
        server = PaperExchange(PaperExchangeConfig(markets=(market,)), SystemClock())
        urls = await server.start()
        stack.push_async_callback(server.stop)
        yield urls["rest"]


async def test_1_the_guides_script(reader: Reader, history: Callable[..., Any]) -> None:
    """Acceptance 1: 1440 rows, three requests, then none and the same frame."""
    place: History = await history(range(-10, 1500), LATER_S)
    script, *_ = snippets()
    said = await reader.run(place.url, SPY, script, f"await main()\nawait main()\n{TOLD}")
    assert any("1706745600 ┆ 40000.25 ┆ 40002.5 ┆ 39998.5 ┆ 40000.75 ┆ 1.0" in line for line in said[:7])
    rows = "[1440, 1706745600, 1706831940, {}, [], {'%s': 1440}]"
    assert said[-3:-1] == [rows % "backfill", rows % "storage"]
    assert said[-1].startswith("True sha256:")
    assert place.klines.seen == 3
    assert place.count(KLINES).seen == 0
    # The example is the same script, run as a program.
    assert EXAMPLE.read_text("utf-8") == script
    program = f"await asyncio.to_thread(runpy.run_path, {str(EXAMPLE)!r}, run_name='__main__')"
    again = await reader.run(place.url, "import asyncio, runpy", "", program)
    assert again == said[: len(again)]
    assert place.klines.seen == 3


async def test_the_live_feed_joins_the_provider(reader: Reader, present: str) -> None:
    _, text, _ = snippets()
    after = "print(provider.live_feed is live_feed, provider.strategy.name)\nawait provider.aclose()\n"
    assert await reader.run(present, FETCHER, text, after) == ["True SEAMLESS"]


async def test_37_the_guides_stream_warms_3600_rows(reader: Reader, present: str) -> None:
    """Acceptance 37, on the page's own store."""
    *_, text = snippets()
    dsn = "postgresql://localhost:8812/qmtl"
    before = f"{FETCHER}provider = EnhancedQuestDBProvider(dsn={dsn!r}, fetcher=fetcher)"
    after = "print(await price.load_history(), price.series)\nawait provider.aclose()\n"
    assert await reader.run(present, before, text, after) == ["3600 ohlcv:binance:BTC/USDT:1m"]


def test_the_page_is_the_published_one(recorded_data: Path) -> None:
    original = recorded_data.parent / "seeds" / PAGE.name
    if not original.is_file():
        pytest.skip(f"no published page beside the recorded data: {original.name}")
    assert PAGE.read_bytes() == original.read_bytes()


def test_the_pages_it_links_to_exist() -> None:
    guide = ROOT / "docs" / "ko" / "guides" / "ccxt_seamless.md"
    assert guide.read_bytes() == PAGE.read_bytes()
    links = re.findall(r"\]\(([^)]+\.md)\)", guide.read_text("utf-8"))
    assert len(links) == 3
    assert [link for link in links if not (guide.parent / link).is_file()] == []
