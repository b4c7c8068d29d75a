"""Every metric is declared once, shown on a dashboard, and every metric shown is declared."""

import ast
import re
from pathlib import Path

from tests.house.tree import ROOT, plant, read_sources

KINDS = {"Counter", "Gauge", "Histogram", "Summary", "Info", "Enum"}
MONITORING = Path("operations/monitoring")
SAMPLE = re.compile(r"\bqmtl_[a-z0-9_]+")
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
            if kind in KINDS and isinstance(name, ast.Constant) and str(name.value).startswith("qmtl_"):
                found[SUFFIX.sub("", str(name.value))] = str(source.path)
    return found


def shown(root: Path, pattern: str) -> set[str]:
    texts = (file.read_text("utf-8") for file in (root / MONITORING).rglob(pattern))
    return {SUFFIX.sub("", name) for text in texts for name in SAMPLE.findall(text)}


def disagreements(root: Path) -> list[str]:
    metrics, dashboards = declared(root), shown(root, "*.json")
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
    ]
    plant(tmp_path, "qmtl/metrics.py", "\n".join(lines))
    plant(tmp_path, "qmtl/engine/loop.py", 'D = Histogram("qmtl_lag_seconds", "x")')
    plant(
        tmp_path,
        f"{MONITORING}/trader.json",
        '{"expr": "rate(qmtl_orders_total[1m]) + qmtl_lag_seconds_bucket"}',
    )
    plant(tmp_path, f"{MONITORING}/alerts.yml", "expr: qmtl_drift > 0\n")
    assert disagreements(tmp_path) == [
        "qmtl_drift: shown or alerted on, but not declared",
        "qmtl_equity: on no dashboard",
        "qmtl_lag_seconds: declared in qmtl/engine/loop.py, not in metrics.py",
    ]
