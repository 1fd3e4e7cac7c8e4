"""The units of deploy/systemd: valid for systemd, and for the programs that they start."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from towpath.gateway.settings import GatewaySettings
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.settings import BrokerSettings
from towpath.tools.packages import Program, ProgramMissing, find_or_install

ROOT: Final = Path(__file__).parent.parent
UNITS: Final = ROOT / "deploy/systemd"
ANALYZE: Final = Program("systemd", "systemd", ("systemd-analyze",))
PYTHON: Final = "/opt/towpath/bin/python"
#: The programs that the unit of services is for.
PROGRAMS: Final = ["ingress", *sorted(service.name for service in installed_services())]


@pytest.fixture(scope="module")
def analyze() -> Path:
    try:
        return find_or_install(ANALYZE)
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", (UNITS / name).read_text(), re.M):
        found.setdefault(key, []).append(value)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as the page has them installed: one copy of the unit of services for each."""
    folder = tmp_path_factory.mktemp("units")
    shutil.copy(UNITS / "towpath-gateway@.service", folder)
    for name in PROGRAMS:
        shutil.copy(UNITS / "towpath-service@.service", folder / f"towpath-{name}@.service")
    for path in folder.iterdir():
        text = path.read_text()
        assert text.count(PYTHON) == 1
        path.write_text(text.replace(PYTHON, sys.executable))
    return folder


def test_systemd_accepts_the_units(analyze: Path, installed: Path) -> None:
    units = [str(path).replace("@.", "@1.") for path in sorted(installed.iterdir())]
    ran = subprocess.run([analyze, "verify", *units], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("name", ["gateway", *PROGRAMS])
def test_a_unit_exposes_little(name: str, analyze: Path, installed: Path) -> None:
    """Of 10; a unit without any restriction has 9.6."""
    unit = installed / f"towpath-{name}@1.service"
    ran = subprocess.run(
        [analyze, "security", "--offline=yes", "--threshold=20", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize("name", ["towpath-gateway@.service", "towpath-service@.service"])
def test_a_unit_lets_its_program_drain_and_ends_the_restarts_that_repair_nothing(name: str) -> None:
    settings = unit(name)
    assert float(settings["TimeoutStopSec"][0]) > BrokerSettings.model_fields["drain_timeout"].default + 10
    assert settings["Restart"] == ["on-failure"]
    page = (ROOT / "docs/operations/start-and-health.md").read_text()
    table = page[page.index("| exit status |") :].split("\n\n")[0]
    statuses = dict(re.findall(r"^\| (\d+) \| (.*) \|$", table, re.M))
    final = {status for status, when in statuses.items() if re.search(r"restart cannot|\| no$", when)}
    assert final
    prevented = set(settings["RestartPreventExitStatus"][0].split())
    assert final <= prevented
    assert not (statuses.keys() - final) & prevented
    assert settings["EnvironmentFile"][0] == "-/etc/towpath/common.env"


def test_a_gateway_has_descriptors_for_its_connections_and_a_name_that_is_allowed() -> None:
    settings = unit("towpath-gateway@.service")
    fields = GatewaySettings.model_fields
    needed = sum(
        fields[name].default for name in ("max_connections", "handshakes_max", "descriptors_reserve")
    )
    assert int(settings["LimitNOFILE"][0]) > needed
    assert settings["Environment"] == ["TOWPATH_GATEWAY_ID=%l-%i"], "a short host name has no dot"


@pytest.mark.parametrize("name", ["gateway", *PROGRAMS])
def test_the_module_that_a_unit_starts_exists(name: str) -> None:
    kind = "gateway" if name == "gateway" else "service"
    (command,) = unit(f"towpath-{kind}@.service")["ExecStart"]
    assert command.replace("%j", name) == f"{PYTHON} -m towpath.{name}"
    assert importlib.util.find_spec(f"towpath.{name}.__main__") is not None


def test_the_users_file_makes_the_user_of_the_units() -> None:
    (line,) = [line for line in (UNITS / "towpath.conf").read_text().splitlines() if line[0] != "#"]
    assert line.split()[:2] == ["u", *unit("towpath-gateway@.service")["User"]]
    assert unit("towpath-service@.service")["User"] == unit("towpath-gateway@.service")["User"]
