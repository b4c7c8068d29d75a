"""seamless.md §16 item 35: a publish that is killed anywhere leaves the old artifact or the new one."""

import asyncio
import os
import random
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal

from qmtl.runtime.io.artifacts import ArtifactReader
from qmtl.runtime.sdk.history import ArtifactNotFoundError
from tests.conftest import ROOT
from tests.runtime.io.publish_child import NODE, NOW, ROWS, START, bars, publish

assert_same = partial(assert_frame_equal, check_exact=True)

OLD, NEW = 2.0, 3.0
AT_ONCE = 2


async def run_child(base: Path, point: int) -> tuple[int, list[str]]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.runtime.io.publish_child", str(base), str(NEW), str(NOW + 10), str(point)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await asyncio.wait_for(child.communicate(), 60)
    return child.returncode or 0, out.decode().split()


def resolve(base: Path) -> str:
    return ArtifactReader(base).resolve(NODE, 60, NOW + 10, START, START + 60 * ROWS)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("has_old", [False, True])
async def test_35_a_killed_publish_leaves_the_old_or_the_new(
    tmp_path: Path, count: Callable[[int, int], int], has_old: bool
) -> None:
    before = tmp_path / "before"
    before.mkdir()
    old = publish(before, OLD, NOW) if has_old else None
    new = publish(tmp_path / "reference", NEW, NOW + 10)
    shutil.copytree(before, tmp_path / "whole")
    code, calls = await run_child(tmp_path / "whole", 0)
    assert (code, resolve(tmp_path / "whole")) == (0, new)
    assert set(calls) >= {"open", "write", "fsync", "replace", "link", "close"}
    every = list(range(1, len(calls) + 1))
    # Half of the campaign each; points repeat once there are more kills than calls.
    points = random.Random(35).choices(every, k=count(8, 100))
    slots = asyncio.Semaphore(AT_ONCE)

    async def kill_at(number: int, point: int) -> bool:
        base = tmp_path / f"kill-{number}"
        shutil.copytree(before, base)
        async with slots:
            code, _ = await run_child(base, point)
        assert code == -signal.SIGKILL
        return check(base, old, new)

    finished = await asyncio.gather(*(kill_at(*one) for one in enumerate(points)))
    assert not all(finished)


def check(base: Path, old: str | None, new: str) -> bool:
    """Whatever is found is whole, the old is there until the new one is, and the next publish succeeds."""
    reader = ArtifactReader(base)
    assert reader.faults(NODE, 60) == []
    try:
        found = resolve(base)
    except ArtifactNotFoundError:
        assert old is None
        found = ""
    assert found in {old or "", new}
    if found:
        assert_same(reader.open(found), bars(NEW if found == new else OLD))
    assert publish(base, NEW, NOW + 10) == new == resolve(base)
    assert_same(reader.open(new), bars(NEW))
    if old is not None:
        assert_same(reader.open(old), bars(OLD))
        assert reader.resolve(NODE, 60, NOW + 9, START, START + 60) == old
    leftovers = [path.name for path in base.rglob(".*")]
    assert leftovers == [], "the next publish takes over what the dead one left"
    return found == new


def test_35_each_part_is_durable_before_the_next_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut keeps what was synced: data before its name, manifest after data, catalogue last."""

    story: list[str] = []
    names: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "fsync", "replace", "link")}

    def opened(path: str, *rest: int) -> int:
        fd: int = real["open"](path, *rest)
        names[fd] = Path(path).name
        return fd

    def synced(fd: int) -> None:
        story.append(f"sync {names[fd]}")
        real["fsync"](fd)

    monkeypatch.setattr(os, "open", opened)
    monkeypatch.setattr(os, "fsync", synced)

    def renamed(name: str) -> Callable[[str, str], None]:
        def call(source: str, target: str) -> None:
            story.append(f"{name} {Path(target).name}")
            real[name](source, target)

        return call

    monkeypatch.setattr(os, "replace", renamed("replace"))
    monkeypatch.setattr(os, "link", renamed("link"))
    new = publish(tmp_path, NEW, NOW).replace(":", "-")
    shown = [
        line for line in story if new in line or "json" in line or "parquet" in line or line == "sync 60"
    ]
    assert [line for line in shown if line not in {f"sync {new}", "sync 60"}] == [
        "sync .data.parquet.new",
        "replace data.parquet",
        "sync .manifest.json.new",
        "replace manifest.json",
        f"sync .{NOW}.json.new",
        f"link {NOW}.json",
    ]
    assert shown[shown.index("replace data.parquet") + 1] == f"sync {new}"
    assert shown[shown.index("replace manifest.json") + 1] == f"sync {new}"
    assert shown[-1] == "sync 60"
