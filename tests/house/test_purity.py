"""Pure rooms stay pure; clock, environment and randomness are read in one place each."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.house.tree import ROOT, Source, plant, read_sources

PURE = (
    "qmtl.core",
    "qmtl.engine.matching",
    "qmtl.runtime.io.binance_messages",
    "qmtl.services.gateway.instrument_constraints",
    "qmtl.services.gateway.rebalancing_executor",
    "qmtl.services.worldservice.rebalancing",
    "qmtl.trader.conditional",
    "qmtl.trader.decision",
)
CORE_MAY_IMPORT = set(sys.stdlib_module_names) | {"msgspec", "qmtl"}

CLOCK = {
    f"time.{name}"
    for name in ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")
}
CLOCK |= {"time.sleep", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today"}
ENVIRONMENT = {"os.environ", "os.getenv", "os.environb"}
RANDOM_MODULES = {"random", "secrets"}
RANDOM = {"uuid.uuid1", "uuid.uuid4", "os.urandom"}
# Where the outside world may be read; `qmtl.cli` stands for the whole room.
READERS = {
    "qmtl.cli": CLOCK | ENVIRONMENT | RANDOM | RANDOM_MODULES,
    "qmtl.config": ENVIRONMENT,
    "qmtl.engine.clock": CLOCK | RANDOM | RANDOM_MODULES,
    # The published constructor takes a configuration only, so this driver brings the system's randomness.
    "qmtl.trader.rt_trader": {"random"},
}


def is_within(module: str, room: str) -> bool:
    return module == room or module.startswith(room + ".")


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def forbidden_to_pure_rooms(root: Path) -> set[str]:
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    return set(next(c for c in contracts if c["id"] == "pure")["forbidden_modules"])


def impure_imports(root: Path, forbidden: set[str]) -> list[str]:
    return [
        f"{source.path}:{line}: imports {module}"
        for source in read_sources(root, "qmtl")
        if any(is_within(source.module, room) for room in PURE)
        for line, module in imported_modules(source)
        for top in [module.split(".")[0]]
        if top in forbidden or (is_within(source.module, "qmtl.core") and top not in CORE_MAY_IMPORT)
    ]


def names_in(tree: ast.Module) -> dict[str, str]:
    """Local name -> full dotted name, for every import of the file."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                names[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        owner = dotted(node.value, names)
        return owner and f"{owner}.{node.attr}"
    return ""


def outside_reads(root: Path) -> list[str]:
    watched = CLOCK | ENVIRONMENT | RANDOM
    found = []
    for source in read_sources(root, "qmtl"):
        allowed = set().union(*(reads for room, reads in READERS.items() if is_within(source.module, room)))
        names = names_in(source.tree)
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Attribute | ast.Name) and (name := dotted(node, names)):
                is_random = name.split(".")[0] in RANDOM_MODULES - allowed
                if is_random or name in watched - allowed:
                    found.append(f"{source.path}:{node.lineno}: reads {name}")
    return sorted(set(found))


def test_pure_rooms_import_nothing_of_the_outside() -> None:
    assert impure_imports(ROOT, forbidden_to_pure_rooms(ROOT)) == []


def test_import_linter_knows_every_pure_room_there_is() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = next(c for c in project["tool"]["importlinter"]["contracts"] if c["id"] == "pure")
    modules = {source.module for source in read_sources(ROOT, "qmtl")}
    assert set(contract["source_modules"]) == {room for room in PURE if room in modules}


def test_clock_environment_and_randomness_have_their_readers() -> None:
    assert outside_reads(ROOT) == []


def test_impure_imports_are_found(tmp_path: Path) -> None:
    plant(tmp_path, "qmtl/core/order.py", "import msgspec\nimport decimal\nfrom qmtl.core import bar\n")
    plant(tmp_path, "qmtl/core/bar.py", "import polars\nfrom os import path\n")
    plant(tmp_path, "qmtl/trader/decision.py", "import numpy\ndef f():\n    import time\n")
    plant(tmp_path, "qmtl/trader/callback.py", "import time\n")
    assert impure_imports(tmp_path, {"os", "time"}) == [
        "qmtl/core/bar.py:1: imports polars",
        "qmtl/core/bar.py:2: imports os",
        "qmtl/trader/decision.py:3: imports time",
    ]


def test_reads_of_the_outside_are_found(tmp_path: Path) -> None:
    lines = ["import os, time, random", "from time import monotonic as now", "from datetime import datetime"]
    lines += [
        "from uuid import uuid4",
        "time.time()",
        "now()",
        "datetime.now()",
        "os.environ['X']",
        "uuid4()",
    ]
    lines += ["random.Random(7)", "time.strftime('')", "os.path"]
    plant(tmp_path, "qmtl/engine/engine.py", "\n".join(lines))
    plant(tmp_path, "qmtl/engine/clock.py", "import time\ntime.time()\nimport os\nos.environ\n")
    assert outside_reads(tmp_path) == [
        "qmtl/engine/clock.py:4: reads os.environ",
        "qmtl/engine/engine.py:10: reads random",
        "qmtl/engine/engine.py:10: reads random.Random",
        "qmtl/engine/engine.py:5: reads time.time",
        "qmtl/engine/engine.py:6: reads time.monotonic",
        "qmtl/engine/engine.py:7: reads datetime.datetime.now",
        "qmtl/engine/engine.py:8: reads os.environ",
        "qmtl/engine/engine.py:9: reads uuid.uuid4",
    ]
