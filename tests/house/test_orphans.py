"""Every module is reached from a command (`qmtl`, `make bench`) or is a published import path."""

import ast
from pathlib import Path

from tests.house.tree import ROOT, Source, plant, read_sources

# What people run or import by name: the command, the published trader and the pages' import paths (seeds,
# contracts). Everything else must be imported by something that is reached from here.
ENTRIES = {
    "qmtl",
    "qmtl.cli.app",
    "qmtl.runtime.io",
    "qmtl.runtime.sdk",
    "qmtl.runtime.sdk.brokerage",
    "qmtl.runtime.sdk.nodes.processing",
    "qmtl.runtime.sdk.nodes.publishing",
    "qmtl.runtime.sdk.nodes.sources",
    "qmtl.runtime.sdk.runtime",
    "qmtl.runtime.io.embedded_store",
    "qmtl.runtime.sdk.backfill",
    "qmtl.runtime.sdk.history",
    "qmtl.runtime.sdk.lease_keeper",
    "qmtl.runtime.sdk.ohlcv_nodeid",
    "qmtl.runtime.io.seamless_provider",
    "qmtl.runtime.sdk.seamless_data_provider",
    "qmtl.runtime.sdk.strategy_file",
    "qmtl.runtime.sdk.ta",
    "qmtl.runtime.sdk.presets",
    "qmtl.runtime.io.artifacts",
    # The road an author passes to the venue: BinanceFuturesVenue(road=…) (contract, trader §7 item 11).
    "qmtl.trader.callback",
    "qmtl.trader.collector",
    "qmtl.trader.conditional",
    "qmtl.trader.decision",
    "qmtl.trader.prelim",
    "qmtl.trader.rt_trader",
}
ENTRY_ROOMS = ("qmtl.examples",)


def references(source: Source, modules: set[str]) -> set[str]:
    """Modules a file imports, anywhere in it, and those it names in strings for a lazy import."""
    package = source.module if source.path.name == "__init__.py" else source.module.rpartition(".")[0]
    found = set()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value.split(":")[0]
            found.add(f"{package}{name}" if name.startswith(".") else name)
    return found & modules


def orphans(root: Path) -> list[str]:
    sources = {source.module: source for source in read_sources(root, "qmtl")}
    modules = set(sources)
    waiting = [m for m in modules if m in ENTRIES or m.startswith(ENTRY_ROOMS)]
    for measurement in read_sources(root, "bench"):
        waiting += references(measurement, modules)
    reached: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in reached:
            continue
        reached.add(module)
        waiting += references(sources[module], modules)
        parent = module.rpartition(".")[0]
        waiting += [parent] if parent in modules else []
    return sorted(m for m in modules - reached if sources[m].text.strip())


def test_no_module_is_an_orphan() -> None:
    assert orphans(ROOT) == []


def test_an_orphan_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "qmtl/cli/app.py", 'LAZY = {"demo": "qmtl.cli.demo:run"}\n')
    plant(tmp_path, "qmtl/cli/demo.py", "def run():\n    from qmtl.engine import journal\n")
    plant(tmp_path, "qmtl/engine/__init__.py", "")
    plant(tmp_path, "qmtl/engine/journal.py", "from . import owner\nfrom .. import metrics\n")
    plant(tmp_path, "qmtl/engine/owner.py", "x = 1\n")
    plant(tmp_path, "qmtl/metrics.py", "x = 1\n")
    plant(tmp_path, "qmtl/engine/backtest.py", "x = 1\n")
    plant(tmp_path, "bench/loop.py", "from qmtl.engine.backtest import x\n")
    plant(tmp_path, "qmtl/engine/forgotten.py", "from qmtl.engine import forgotten_too\n")
    plant(tmp_path, "qmtl/engine/forgotten_too.py", "x = 1\n")
    assert orphans(tmp_path) == ["qmtl.engine.forgotten", "qmtl.engine.forgotten_too"]
