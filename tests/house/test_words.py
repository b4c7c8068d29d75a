"""Nothing that is committed names a registry, a machine or unfinished work."""

import re
from pathlib import Path

from tests.house.tree import ROOT, plant, tracked_files

# Written in pieces so that this file passes its own check.
HOSTS = ["py" + "pi.org", "python" + "hosted", "registry.np" + "mjs", "registry.ya" + "rnpkg"]
HOSTS += ["crates" + ".io", "proxy.gol" + "ang.org", "repo1.ma" + "ven", "repo.ma" + "ven"]
PLACES = ["/wo" + r"rk/[a-z.]", "/ro" + r"ot/[a-z.]", "/tm" + r"p/[a-z.]", "/ho" + r"me/[a-z]+/"]
UNFINISHED = ["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK", "for n" + "ow", "simpli" + "fied"]
RULES = {
    "a registry host": re.compile("|".join(map(re.escape, HOSTS)), re.IGNORECASE),
    "a path of one machine": re.compile("|".join(PLACES)),
    "unfinished work": re.compile(r"\b(" + "|".join(UNFINISHED) + r")\b"),
}
TEXT = re.compile(r"\.(css|in|json|lock|md|py|sh|svelte|toml|ts|txt|ya?ml)$|(^|/)[^./]+$")


def forbidden_words(root: Path) -> list[str]:
    found = []
    for path in tracked_files(root):
        if not TEXT.search(path.as_posix()):
            continue
        for number, line in enumerate((root / path).read_text("utf-8", "replace").splitlines(), 1):
            found += [f"{path}:{number}: names {what}" for what, rule in RULES.items() if rule.search(line)]
    return found


def test_no_forbidden_word() -> None:
    assert forbidden_words(ROOT) == []


def test_each_kind_of_word_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "requirements.lock", f"--index-url https://{HOSTS[0]}/simple\n")
    plant(tmp_path, "qmtl/place.py", f'DATA = "{PLACES[0][:6]}shared"\n')
    plant(tmp_path, "README.md", f"{UNFINISHED[0]}: write this\n")
    assert sorted(line.split(": names ")[1] for line in forbidden_words(tmp_path)) == sorted(RULES)
