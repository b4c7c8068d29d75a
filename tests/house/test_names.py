"""A file is its noun."""

import re
from pathlib import Path

from tests.house.tree import ROOT, plant, read_sources

NOT_NOUNS = re.compile(r"(^|_)(util|utils|helper|helpers|common|misc|manager|managers|stuff|base_utils)(_|$)")


def vague_names(root: Path) -> list[str]:
    return [
        str(source.path)
        for source in read_sources(root, "qmtl", "tests", "bench", "examples")
        if any(NOT_NOUNS.search(part) for part in source.path.with_suffix("").parts)
    ]


def test_names_say_what_is_inside() -> None:
    assert vague_names(ROOT) == []


def test_a_vague_name_is_found(tmp_path: Path) -> None:
    for name in ("core/order_utils.py", "helpers/x.py", "manager.py", "core/commonality.py"):
        plant(tmp_path, f"qmtl/{name}", "")
    assert vague_names(tmp_path) == ["qmtl/core/order_utils.py", "qmtl/helpers/x.py", "qmtl/manager.py"]
