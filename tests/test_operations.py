"""What is deployed keeps the contract's promises: loopback, least rights, stops cleanly, names no secret."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from qmtl.config import load_with_sources
from qmtl.runtime.io.questdb_link import parse_dsn
from qmtl.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
OPERATIONS = ROOT / "operations"
COMPOSE = yaml.safe_load((OPERATIONS / "compose" / "compose.yml").read_text("utf-8"))
UNIT = OPERATIONS / "systemd" / "qmtl-trader@.service"
SERVICE_KEYS = {
    "network_mode",
    "read_only",
    "cap_drop",
    "security_opt",
    "restart",
    "logging",
    "build",
    "image",
    "user",
    "command",
    "environment",
    "volumes",
    "tmpfs",
    "secrets",
    "stop_signal",
    "stop_grace_period",
    "healthcheck",
}


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_every_service_is_hardened(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert set(service) <= SERVICE_KEYS
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["user"].partition(":")[0] not in {"0", "root", ""}
    assert service["image"] == "qmtl" or re.search(r":v?\d+\.\d+", service["image"])
    assert "ports" not in service
    listens = re.findall(r"(\d+\.\d+\.\d+\.\d+):\d+", " ".join(map(str, service.get("command", []))))
    assert set(listens) <= {"127.0.0.1"}


def test_secrets_are_files_and_every_mount_exists() -> None:
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())
    named = {name for service in COMPOSE["services"].values() for name in service.get("secrets", [])}
    assert named == set(COMPOSE["secrets"])
    for service in COMPOSE["services"].values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            if source.startswith("../"):
                assert (OPERATIONS / "compose" / source).exists(), source
            elif not source.startswith("./"):
                assert source in COMPOSE["volumes"]


def test_the_trader_stops_as_ctrl_c_and_its_settings_exist() -> None:
    trader = COMPOSE["services"]["trader"]
    assert (trader["stop_signal"], trader["stop_grace_period"]) == ("SIGINT", "60s")
    for service in COMPOSE["services"].values():
        if service["image"] == "qmtl":
            settings = load_with_sources(environment=service["environment"]).settings
            assert settings != Settings()
    scrape = yaml.safe_load((OPERATIONS / "monitoring" / "prometheus.yml").read_text("utf-8"))
    port = trader["environment"]["QMTL_CONTROL__PORT"]
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [f"127.0.0.1:{port}"]


def test_the_unit_feeds_a_watchdog_and_does_not_restart_on_bad_input() -> None:
    unit = configparser.RawConfigParser(strict=False)
    unit.read_string(UNIT.read_text("utf-8"))
    service = unit["Service"]
    assert (service["Type"], service["KillSignal"]) == ("notify", "SIGINT")
    assert service["RestartPreventExitStatus"] == "2"
    assert int(service["WatchdogSec"]) >= 15
    assert service["NoNewPrivileges"] == "yes"


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    text = UNIT.read_text("utf-8").replace("/usr/local/bin/qmtl", "/bin/true")
    unit = tmp_path / "qmtl-trader@desk.service"
    unit.write_text(text, "utf-8")
    done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    about_it = [line for line in done.stderr.splitlines() if "qmtl-trader" in line]
    assert about_it == []


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed")
    text = (OPERATIONS / "monitoring" / "prometheus.yml").read_text("utf-8")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/", ""), "utf-8")
    mounts = COMPOSE["services"]["prometheus"]["volumes"]
    for name in re.findall(r"/etc/prometheus/(\w+\.yml)", text):
        assert f"../monitoring/{name}:/etc/prometheus/{name}:ro" in mounts
        shutil.copy(OPERATIONS / "monitoring" / name, tmp_path)
    command = [program, "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_grafana_finds_its_data_source_and_every_dashboard() -> None:
    provisioning = OPERATIONS / "monitoring" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))[
        "datasources"
    ]
    listens = [text for text in COMPOSE["services"]["prometheus"]["command"] if "listen-address" in text]
    assert source["url"] == f"http://{listens[0].partition('=')[2]}"
    found = yaml.safe_load((provisioning / "dashboards" / "dashboards.yml").read_text("utf-8"))
    (provider,) = found["providers"]
    mounts = COMPOSE["services"]["grafana"]["volumes"]
    assert f"../monitoring/dashboards:{provider['options']['path']}:ro" in mounts
    boards = [
        json.loads(path.read_text("utf-8")) for path in (OPERATIONS / "monitoring" / "dashboards").iterdir()
    ]
    assert len({board["uid"] for board in boards}) == len(boards) == 5


def test_services_agree_on_where_they_are() -> None:
    services = COMPOSE["services"]
    trader = services["trader"]["environment"]
    questdb = services["questdb"]["environment"]
    assert parse_dsn(trader["QMTL_SEAMLESS__QUESTDB_DSN"])[:2] == split_address(questdb["QDB_PG_NET_BIND_TO"])
    # The store goes to port 9000 of that host by itself.
    assert questdb["QDB_HTTP_BIND_TO"] == "127.0.0.1:9000"
    coordinator = services["coordinator"]["environment"]["QMTL_COORDINATOR__BIND__PORT"]
    assert trader["QMTL_SEAMLESS__COORDINATOR_URL"] == f"http://127.0.0.1:{coordinator}"
    assert {"--bind 127.0.0.1", "--port 6379"} <= set(services["redis"]["command"])
    assert trader["QMTL_CONNECTORS__CCXT_RATE_LIMITER_REDIS"] == "redis://127.0.0.1:6379/0"
    scrape = yaml.safe_load((OPERATIONS / "monitoring" / "prometheus.yml").read_text("utf-8"))
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in scrape["scrape_configs"]}
    assert jobs["qmtl-coordinator"] == [f"127.0.0.1:{coordinator}"]


def split_address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
