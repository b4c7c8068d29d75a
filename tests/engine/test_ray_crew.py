"""The same sweep on Ray: actors answer as processes do."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from qmtl.engine.crew import CrewError, RayCrew, Workload
from qmtl.engine.sweep import GridSampler, SweepFile, build_grid, run_sweep
from tests.engine.sweep_rig import FACTORY, result_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.filterwarnings("ignore")  # Ray's own start warns of what it will change one day
def test_ray_actors_do_every_set_and_report_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    crew = RayCrew(Workload(FACTORY, {"fails_at": 2, "dies_at": 4}), 2)
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    with closing(crew), closing(SweepFile(tmp_path / "sweep.jsonl", {})) as results:
        grid = build_grid({"a": [1, 2, 3, 4], "b": [0.5]})
        rows = list(run_sweep(GridSampler(grid), crew, results, {}))
    assert len(rows) == 4
    assert {row["params"]["a"] for row in rows if "error" in row} == {2, 4}
    assert all("float division" in row["error"] for row in rows if row["params"]["a"] == 2)
    assert all(row["result"] == result_of(row["params"]) for row in rows if row["params"]["a"] in {1, 3})


def test_a_start_that_ray_misses_once_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "1")
    asked: list[str] = []

    def refuse(**options: object) -> None:
        asked.append("init")
        raise RuntimeError("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", refuse)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("shutdown"))
    with pytest.raises(CrewError, match=r"Ray did not start: The current node timed out"):
        RayCrew(Workload(FACTORY, {}), 1)
    assert asked == ["init", "shutdown"] * 2
