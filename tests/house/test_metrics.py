"""Every metric is declared once, shown on a dashboard, and every metric shown is declared."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.house.tree import ROOT, plant, read_sources

KINDS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
SHORTHANDS = {"count", "gauge"}  # what qmtl/metrics.py calls them within one class
MONITORING = Path("operations/monitoring")
SAMPLE = re.compile(r"\bqmtl_[a-z0-9_]+")
# The metrics of history have names of their own, given by the contract; they are looked for in queries only.
FAMILY = (
    r"(?:artifact|backfill|coverage|domain_gate|gap_repair|live_staleness|partial_fill|seamless)_[a-z0-9_]+"
)
DECLARED = re.compile(rf"qmtl_|{FAMILY}$")
QUERIED = re.compile(rf"\b(?:qmtl_[a-z0-9_]+|{FAMILY})")
SUFFIX = re.compile(r"_(total|bucket|sum|count|created|info)$")


def declared(root: Path) -> dict[str, str]:
    """Metric name without its sample suffix -> the file that declares it."""
    found = {}
    for source in read_sources(root, "qmtl"):
        for node in ast.walk(source.tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            kind = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0]
            is_kind = kind in KINDS or (kind in SHORTHANDS and str(source.path) == "qmtl/metrics.py")
            if is_kind and isinstance(name, ast.Constant) and DECLARED.match(str(name.value)):
                found[SUFFIX.sub("", str(name.value))] = str(source.path)
    return found


def shown(root: Path, *patterns: str) -> set[str]:
    """Names in the files, and those of history in their queries; what a rule records is no metric."""
    files = {file for pattern in patterns for file in (root / MONITORING).rglob(pattern)}
    found = {name for file in files for name in SAMPLE.findall(file.read_text("utf-8"))}
    recorded: set[str] = set()
    for file in files:
        # Strict JSON is YAML too.
        for key, text in walk(yaml.safe_load(file.read_text("utf-8"))):
            if key == "expr":
                found |= set(QUERIED.findall(text))
            elif key == "record":
                recorded.add(text)
    return {SUFFIX.sub("", name) for name in found - recorded}


def walk(body: Any) -> Iterator[tuple[str, str]]:
    """Every key with a text, at any depth."""
    if isinstance(body, list):
        for item in body:
            yield from walk(item)
    elif isinstance(body, dict):
        for key, value in body.items():
            yield from [(str(key), value)] if isinstance(value, str) else walk(value)


def disagreements(root: Path) -> list[str]:
    metrics, dashboards = declared(root), shown(root, "*.json", "*.jsonnet")
    found = [
        f"{name}: declared in {file}, not in metrics.py"
        for name, file in metrics.items()
        if file != "qmtl/metrics.py"
    ]
    found += [f"{name}: on no dashboard" for name in metrics if name not in dashboards]
    found += [
        f"{name}: shown or alerted on, but not declared" for name in shown(root, "*.*") - metrics.keys()
    ]
    return sorted(found)


def test_metrics_and_dashboards_agree() -> None:
    assert declared(ROOT), "qmtl/metrics.py declares no metric"
    assert disagreements(ROOT) == []


def test_disagreements_are_found(tmp_path: Path) -> None:
    lines = [
        'A = Counter("qmtl_orders_total", "x")',
        'B = p.Gauge("qmtl_equity", "x")',
        'C = Counter("other", "x")',
        'D = count("seamless_cache_hit_total", "x")',
        'E = gauge("coverage_ratio", "x")',
    ]
    plant(tmp_path, "qmtl/metrics.py", "\n".join(lines))
    plant(tmp_path, "qmtl/engine/loop.py", 'D = Histogram("qmtl_lag_seconds", "x")')
    plant(
        tmp_path,
        f"{MONITORING}/trader.json",
        '{"expr": "rate(qmtl_orders_total[1m]) + qmtl_lag_seconds_bucket"}',
    )
    plant(tmp_path, f"{MONITORING}/alerts.yml", "expr: qmtl_drift > 0\n")
    recorded = '{"record": "seamless_p99", "expr": "backfill_lost_total"}'
    rules = f'[{recorded}, {{"expr": "coverage_ratio < seamless_p99"}}]'
    plant(tmp_path, f"{MONITORING}/seamless_v2.jsonnet", rules)
    assert disagreements(tmp_path) == [
        "backfill_lost: shown or alerted on, but not declared",
        "qmtl_drift: shown or alerted on, but not declared",
        "qmtl_equity: on no dashboard",
        "qmtl_lag_seconds: declared in qmtl/engine/loop.py, not in metrics.py",
        "seamless_cache_hit: on no dashboard",
    ]
