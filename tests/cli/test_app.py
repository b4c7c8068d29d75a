import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from qmtl.cli import app
from tests.cli.command import environment, qmtl
from tests.processor_time import STANDARD, processor_s

COMMANDS = (
    "demo data trade paper-exchange replay status pause halt flatten resume backup restore config logs "
    "set-limit"
)


def test_help_names_every_command_and_is_quick(home: Path) -> None:
    done = qmtl("--help", home=home)
    assert done.returncode == 0
    for command in COMMANDS.split():
        assert f"  {command} " in done.stdout
    code = "from qmtl.cli.app import run; run(['--help'])"
    assert processor_s(code, environment(home)) < 5 * processor_s(STANDARD, environment(home))


def test_lists_of_commands_are_not_cut_short(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["data"], ["report"], ["config"]):
        app.run([*words, "--help"])
        assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")


def test_help_loads_nothing_heavy(home: Path) -> None:
    code = "import sys; from qmtl.cli.app import run; run(['--help'])"
    code += "; print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(home), capture_output=True, text=True, check=True
    )
    for heavy in ("polars", "pyarrow", "aiohttp", "pydantic", "numpy", "sqlite3", "structlog"):
        assert f"'{heavy}'" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS.split())
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run([command, "--help"]) == 0
    assert f"Usage: qmtl {command}" in capsys.readouterr().out


def test_global_options_may_stand_anywhere(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    (home / "my.yml").write_text("risk: {max_daily_loss: 50 USDT}\n", "utf-8")
    for arguments in (
        ["--json", "--config", "my.yml", "config", "show", "risk.max_daily"],
        ["config", "show", "risk.max_daily", "-c", "my.yml", "--json"],
        ["config", "--config=my.yml", "show", "--json", "risk.max_daily"],
    ):
        assert app.run(arguments) == 0
        shown = json.loads(capsys.readouterr().out)
        assert shown == {"risk.max_daily_loss": {"value": "50", "source": "my.yml"}}


def test_config_show_redacts_secrets(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("QMTL_ACCOUNT__API_KEY", "abcdefgh12345678")
    monkeypatch.setenv("QMTL_ACCOUNT__SECRET", "hgfedcba87654321")
    for arguments in (["config", "show"], ["config", "show", "--json"], ["config", "check"]):
        assert app.run(arguments) == 0
        out = capsys.readouterr().out
        assert "abcdefgh12345678" not in out
        assert "hgfedcba87654321" not in out
    assert "keys configured" in out


def test_an_unexpected_error_is_one_line_and_a_traceback_only_with_v(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("secret=abcdefgh went wrong")

    monkeypatch.setattr(app, "build", fail)
    assert app.run(["status"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected RuntimeError: secret=[redacted] went wrong")
    assert "Traceback" not in err
    assert app.run(["status", "-v"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app, "build", interrupt)
    assert app.run(["status"]) == 130


@pytest.mark.parametrize("name", app._CODES)
def test_every_named_error_is_where_its_name_says(name: str) -> None:
    module, _, kind = name.rpartition(".")
    found = getattr(importlib.import_module(module), kind)
    assert (found.__module__, issubclass(found, Exception)) == (module, True)
