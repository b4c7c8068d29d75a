"""qmtl.yml.example shows every key there is, with its default."""

import re
from pathlib import Path
from typing import Any

from qmtl.config import load_with_sources, walk_keys
from qmtl.settings import Settings
from tests.house.tree import ROOT

EXAMPLE = ROOT / "qmtl.yml.example"
KEY = re.compile(r"^(?P<indent> *)(?P<off># )?(?P<name>[a-z_]+):", re.MULTILINE)


def shown_keys(text: str) -> set[str]:
    """Dotted keys of the page, commented ones too, by indentation."""
    found, path = set(), [""] * 8
    for match in KEY.finditer(text):
        depth = len(match["indent"]) // 2
        path[depth] = match["name"]
        found.add(".".join(path[: depth + 1]))
    return found


def load_page(path: Path) -> Any:
    return load_with_sources(path, environment={}).settings


def test_every_key_is_shown_and_none_is_invented() -> None:
    known = {key for key, _ in walk_keys(Settings)}
    sections = {key.rsplit(".", depth)[0] for key in known for depth in range(1, key.count(".") + 1)}
    assert shown_keys(EXAMPLE.read_text("utf-8")) == known | sections


def test_shown_values_are_the_defaults() -> None:
    shown, defaults = load_page(EXAMPLE), Settings()
    expanded = {
        "journal.directory",
        "connectors.order_journal",
        "seamless.store_dir",
        "seamless.artifact_dir",
    }
    for key, _ in walk_keys(Settings):
        left: Any = shown
        right: Any = defaults
        for part in key.split("."):
            left, right = getattr(left, part), getattr(right, part)
        if key in expanded:
            right = Path(str(right)).expanduser()
        assert left == right, key


def test_commented_values_are_valid(tmp_path: Path) -> None:
    for match in re.finditer(r"^ +# ([a-z_]+): [^#\n]+", EXAMPLE.read_text("utf-8"), re.MULTILINE):
        text = EXAMPLE.read_text("utf-8")
        text = text[: match.start()] + match[0].replace("# ", "", 1) + text[match.end() :]
        if match[1] in {"api_key", "secret"}:  # the two go together
            text = re.sub(r"^( +)# (api_key|secret):", r"\1\2:", text, flags=re.MULTILINE)
        page = tmp_path / "qmtl.yml"
        page.write_text(text, encoding="utf-8")
        assert load_page(page) != Settings(), match[0]


def test_a_key_that_is_not_shown_is_noticed() -> None:
    page = "risk:\n  # max_drawdown: 10%\n  price_band: 5%\ntrader:\n  decision:\n    stop: 1\n"
    assert shown_keys(page) == {
        "risk",
        "risk.max_drawdown",
        "risk.price_band",
        "trader",
        "trader.decision",
        "trader.decision.stop",
    }
