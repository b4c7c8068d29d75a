"""The lock files satisfy pyproject.toml, carry hashes and name no host."""

import re
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.house.tree import ROOT, plant

PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")


def pins(lock: Path) -> dict[str, set[Version]]:
    found: dict[str, set[Version]] = {}
    for line in lock.read_text("utf-8").splitlines():
        if match := PIN.match(line):
            found.setdefault(canonicalize_name(match["name"]), set()).add(Version(match["version"]))
    return found


def unmet(lock: Path, requirements: list[str]) -> list[str]:
    locked = pins(lock)
    return [
        f"{lock.name}: {text}"
        for text in requirements
        for wanted in [Requirement(text)]
        for versions in [locked.get(canonicalize_name(wanted.name), set())]
        if not versions or not all(wanted.specifier.contains(v, prereleases=True) for v in versions)
    ]


def without_hashes(lock: Path) -> list[str]:
    entries = re.split(r"\n(?=\S)", lock.read_text("utf-8").strip())
    return [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]


SERVER_EXTRAS = ("ccxt", "questdb", "postgres")


def wanted_by(project: dict[str, Any]) -> dict[str, list[str]]:
    """What each lock must satisfy."""
    runtime = project["project"]["dependencies"] + project["dependency-groups"]["build"]
    optional = project["project"]["optional-dependencies"]
    extras = [text for extra in optional.values() for text in extra]
    return {
        "requirements.lock": runtime,
        "requirements-server.lock": runtime + [text for name in SERVER_EXTRAS for text in optional[name]],
        "requirements-dev.lock": runtime + extras + project["dependency-groups"]["dev"],
    }


def test_locks_are_current_and_hashed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    for name, wanted in wanted_by(project).items():
        assert unmet(ROOT / name, wanted) == []
    for lock in [
        *ROOT.glob("requirements*.lock"),
        *ROOT.glob("tests/outside/requirements/*.txt"),
        *ROOT.glob("bench/peers/*.txt"),
    ]:
        assert without_hashes(lock) == []
        assert "://" not in lock.read_text("utf-8"), f"{lock.name} names a host"


def test_the_locks_agree() -> None:
    dev = pins(ROOT / "requirements-dev.lock")
    for name in ("requirements.lock", "requirements-server.lock"):
        locked = pins(ROOT / name)
        assert {package: found for package, found in locked.items() if dev.get(package) != found} == {}


def test_core_install_stays_small() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert len(project["project"]["dependencies"]) < 20


def test_a_stale_lock_is_found(tmp_path: Path) -> None:
    plant(tmp_path, "x.lock", "a==1.0 \\\n    --hash=sha256:00\nB_c==2.0 ; python_version > '3'\n")
    assert unmet(tmp_path / "x.lock", ["a>=1", "b-c>=3", "d"]) == ["x.lock: b-c>=3", "x.lock: d"]
    assert without_hashes(tmp_path / "x.lock") == ["B_c==2.0"]
