"""Broad handlers stand only where everything must be caught."""

import ast
from pathlib import Path

from tests.house.tree import ROOT, plant, read_sources

# The outermost drivers, the send policy, the activation gate and the call into user code.
ALLOWED = {
    "qmtl.cli.app",
    "qmtl.engine.crew",  # evaluates the author's signals; a failing set does not stop a sweep
    "qmtl.engine.engine",
    "qmtl.engine.live",
    "qmtl.engine.strategy",
    "qmtl.runtime.sdk.activation",
    "qmtl.runtime.sdk.bearer",  # calls the author's token function
    "qmtl.runtime.sdk.brokerage.send_policy",
    "qmtl.runtime.sdk.handler_queue",  # calls the author's handlers
    "qmtl.runtime.sdk.node_run",
    "qmtl.runtime.sdk.strategy_file",  # runs the author's file and names its faults
    "qmtl.runtime.sdk.publisher_road",  # asks the author's gate
    "qmtl.runtime.sdk.sweep_worker",  # calls the author's signals
    "qmtl.trader.rt_trader",
}
BROAD = {"Exception", "BaseException"}


def is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id in BROAD) for kind in kinds)


def broad_handlers(root: Path) -> list[str]:
    return [
        f"{source.path}:{node.lineno}"
        for source in read_sources(root, "qmtl")
        if source.module not in ALLOWED
        for node in ast.walk(source.tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]


def test_no_broad_handler_outside_the_drivers() -> None:
    assert broad_handlers(ROOT) == []


def test_a_broad_handler_is_found(tmp_path: Path) -> None:
    for number, kind in enumerate(("Exception", "(ValueError, BaseException)", "", "ValueError")):
        plant(tmp_path, f"qmtl/case_{number}.py", f"try:\n    pass\nexcept {kind}:\n    pass\n")
    plant(tmp_path, "qmtl/cli/app.py", "try:\n    pass\nexcept Exception:\n    pass\n")
    assert broad_handlers(tmp_path) == [f"qmtl/case_{n}.py:3" for n in range(3)]
