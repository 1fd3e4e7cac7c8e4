"""A service is found where it is installed: no program, script or test of Towpath names it."""

import json
import re
import tomllib
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Final

import pytest

import towpath.protocol
from towpath.protocol.routes import dead_queue
from towpath.servicekit import ServiceSettings
from towpath.servicekit.installed import BadEntryPoint, InstalledService, installed_services
from towpath.testkit.bare_page import bare_page
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.schema import schema_differences
from towpath.testkit.tokens import SECRET, a_token

ROOT: Final = Path(__file__).parents[2]
TOLLS: Final = Path(__file__).parent / "tolls"


def install(project: Mapping[str, Any], folder: Path) -> None:
    """Write what an installer writes of a ``pyproject.toml``: the folder of metadata beside the packages."""
    metadata = folder / f"{project['name']}-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    )
    lines = [f"{name} = {value}" for name, value in project["entry-points"]["towpath.services"].items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[towpath.services]", *lines, ""]))


def a_project(**services: str) -> dict[str, Any]:
    return {"name": "others", "version": "1", "entry-points": {"towpath.services": services}}


@pytest.fixture
def with_tolls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tolls is installed, here and in processes that start from here."""
    install(tomllib.loads((TOLLS / "pyproject.toml").read_text())["project"], tmp_path / "installed")
    for folder in (TOLLS / "src", tmp_path / "installed"):
        monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", f"{TOLLS / 'src'}:{tmp_path / 'installed'}")


def named(name: str) -> InstalledService:
    return next(service for service in installed_services() if service.name == name)


async def start_dev(
    processes: Processes, folder: Path, *arguments: str, port: int, **settings: object
) -> Process:
    dev = processes.launch(
        "towpath",
        *("dev", "--data", str(folder), *arguments),
        name="towpath dev",
        port=port,
        web_port=free_port(),
        auth_secret=SECRET,
        web_root=bare_page(folder.parent / "web"),
        **settings,
    )

    def is_ready() -> bool:
        assert dev.status is None, dev.output
        return "Ready." in dev.output

    await eventually(is_ready, timeout=60)
    return dev


# One more service


@pytest.mark.usefixtures("with_tolls")
async def test_dev_runs_an_installed_service_and_dead_letters_lists_its_queue(
    processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    port, folder = free_port(), tmp_path / "towpath"
    dev = await start_dev(processes, folder, port=port, amqp_url=rabbitmq.url, toll=4)
    parts = json.loads((folder / "dev.json").read_text())["parts"]
    assert parts.keys() == {
        "gateway",
        "ingress",
        "tolls",
        *(service.name for service in installed_services()),
    }
    async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana")) as ana:
        for times in (1, 2):
            answer = await ana.request("toll.pay", {"boat": "Heron"})
            assert answer["data"] == {"times": times}
            assert (await ana.next("toll.paid"))["seq"] == times
    assert (folder / "tolls.db").exists()
    listing = processes.launch("towpath", "dead-letters", "list", amqp_url=rabbitmq.url)
    assert await listing.ended() == 0, listing.output
    assert dead_queue("tolls") in listing.output
    assert await dev.terminate(timeout=40) == 0, dev.output


@pytest.mark.usefixtures("with_tolls")
async def test_dev_runs_an_installed_service_on_the_memory_broker(
    processes: Processes, tmp_path: Path
) -> None:
    port = free_port()
    dev = await start_dev(processes, tmp_path / "towpath", "--broker", "memory", port=port)
    async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana")) as ana:
        assert (await ana.request("toll.pay", {"boat": "Heron"}))["data"] == {"times": 1}
    assert await dev.terminate(timeout=40) == 0, dev.output


@pytest.mark.usefixtures("with_tolls")
async def test_a_service_brings_no_line_of_the_migrations_of_the_kit(database_url: str) -> None:
    definition = named("tolls").definition()
    assert definition.storage is not None
    assert definition.storage.migrations is not None
    (migration,) = definition.storage.migrations.glob("*.py")
    assert re.findall(r'create_table\(\s*"(\w+)"', migration.read_text()) == ["tolls_paid"]
    assert await schema_differences(definition, database_url) == []


# Entry points


def test_each_service_of_this_repository_is_installed_by_its_name() -> None:
    for project in ROOT.glob("services/*/pyproject.toml"):
        about = tomllib.loads(project.read_text())["project"]
        if project.parent.name in ("gateway", "ingress"):  # programs without a domain
            continue
        assert project.parent.name in about.get("entry-points", {}).get("towpath.services", {}), (
            f"{project} names no service: add "
            f'[project.entry-points."towpath.services"] {project.parent.name} = "<package>.app:<SERVICE>"'
        )
    assert {"chat", "orders"} <= {service.name for service in installed_services()}, "run `make install`"


@pytest.mark.parametrize("service", installed_services(), ids=lambda service: service.name)
def test_an_entry_point_leads_to_definition_settings_and_program(service: InstalledService) -> None:
    assert service.definition().name == service.name
    assert issubclass(service.settings(), ServiceSettings)
    assert callable(import_module(f"{service.package}.app").serve)
    assert callable(import_module(f"{service.package}.__main__").main)


def test_a_service_without_settings_of_its_own_has_those_of_every_service(tmp_path: Path) -> None:
    entry = EntryPoint("mill", "no_such_package.app:MILL", "towpath.services")
    with pytest.raises(BadEntryPoint, match="No module named 'no_such_package'"):
        InstalledService("mill", "no_such_package", entry).settings()
    assert InstalledService("json", "json", entry).settings() is ServiceSettings


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("tolls.app", 'write it as name = "<package>.app:<SERVICE>"'),
        ("app:TOLLS", 'write it as name = "<package>.app:<SERVICE>"'),
        ("tolls.settings:TollsSettings", 'write it as name = "<package>.app:<SERVICE>"'),
    ],
)
def test_an_entry_point_of_another_form_is_reported_with_the_right_one(
    entry: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(a_project(mill=entry), tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(BadEntryPoint) as bad:
        installed_services()
    assert str(bad.value) == f'the entry point mill = "{entry}" of towpath.services: {problem}'


@pytest.mark.usefixtures("with_tolls")
@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("mill", "tolls.app:TOLLS", "is not the Service named 'mill'; give both the same name"),
        ("tolls", "tolls.app:PAID", "is not the Service named 'tolls'; give both the same name"),
        ("tolls", "tolls.app:NONE", "has no attribute 'NONE'; correct it in the service's pyproject.toml"),
    ],
)
def test_an_entry_point_that_leads_elsewhere_is_reported(name: str, value: str, problem: str) -> None:
    service = InstalledService(name, "tolls", EntryPoint(name, value, "towpath.services"))
    with pytest.raises(BadEntryPoint) as bad:
        service.definition()
    assert str(bad.value).endswith(problem)


@pytest.mark.usefixtures("with_tolls")
def test_two_services_of_one_name_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(a_project(tolls="other.app:TOLLS"), tmp_path / "other")
    monkeypatch.syspath_prepend(tmp_path / "other")
    with pytest.raises(BadEntryPoint, match="has the same name; uninstall one of them"):
        installed_services()


async def test_dev_reports_a_bad_entry_point_in_one_line(
    processes: Processes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(a_project(mill="mill:MILL"), tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    dev = processes.launch("towpath", "dev", "--data", str(tmp_path / "data"), web_port=free_port())
    assert await dev.ended() == 2
    assert dev.output == (
        'towpath: the entry point mill = "mill:MILL" of towpath.services: '
        'write it as name = "<package>.app:<SERVICE>"\n'
    )


# The lists that stay


def test_the_gateway_may_import_no_payload_model() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (forbidden,) = (
        contract["forbidden_modules"] for contract in contracts if contract["name"].startswith("The gateway")
    )
    for module in iter_modules(towpath.protocol.__path__):
        name = f"towpath.protocol.{module.name}"
        if hasattr(import_module(name), "DOMAIN"):
            assert name in forbidden, f"pyproject.toml: add {name} to what the gateway may not import"
