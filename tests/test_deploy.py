"""The containers' contents, checked as far as possible without an engine.

docker-compose and hadolint read what they would read; the image's build stage is run step by step in a folder, and
the programs it makes are started; the database script runs on a real PostgreSQL; the proxy is the real HAProxy, with
deploy's configuration, in front of real gateways.
"""

import asyncio
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aio_pika
import aiohttp
import pytest
import pytest_asyncio
import yaml
from docker.utils.build import exclude_paths
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from yarl import URL

from towpath.gateway.admission.credentials import Admission
from towpath.gateway.settings import GatewaySettings
from towpath.ingress import keys
from towpath.ingress.settings import IngressSettings
from towpath.servicekit.installed import InstalledService, installed_services
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings, load
from towpath.servicekit.runtime.telemetry import Telemetry
from towpath.servicekit.storage.database import Database
from towpath.testkit.client import WireClient
from towpath.testkit.eventually import eventually
from towpath.testkit.postgres import Postgres
from towpath.testkit.processes import Process, Processes, free_port
from towpath.testkit.rabbitmq import Rabbit
from towpath.testkit.tokens import AUTH_SETTINGS, SECRET, a_token
from towpath.tools.broker_setup import PASSWORD, Wanted, variable
from towpath.tools.packages import NPM, POSTGRESQL, Program, ProgramMissing, find_or_install
from towpath.tools.rabbitmq_node import WAL_MAX_SIZE_BYTES, Member, RabbitNode

from .snippets import blocks_of

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
#: The share of its memory at which RabbitMQ 4 blocks publishers: https://www.rabbitmq.com/docs/memory
RABBITMQ_4_WATERMARK = 0.6
HAPROXY = Program("HAProxy", "haproxy", ("/usr/sbin/haproxy", "haproxy"))

#: The settings model of each program that takes its settings from the environment alone.
MODELS: dict[str, type[BrokerSettings]] = {
    "towpath-gateway": GatewaySettings,
    "towpath-ingress": IngressSettings,
    **{f"towpath-{service.name}": service.settings() for service in installed_services()},
}
#: Those with a database of their own, by name.
WITH_STORAGE: dict[str, InstalledService] = {
    service.name: service for service in installed_services() if service.definition().storage is not None
}


# The compose file

#: Writes the accounts of RabbitMQ, and ends.
ACCOUNTS = "accounts"


def run_compose(
    env_file: Path | str, *profiles: str, folder: Path = ROOT, **variables: str
) -> subprocess.CompletedProcess[str]:
    """docker-compose reads the compose file of a folder, with these profiles, and fills in the variables."""
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}
    chosen = [f"--profile={profile}" for profile in profiles]
    command = [
        str(BIN / "docker-compose"),
        "--env-file",
        str(env_file),
        *chosen,
        "config",
        "--format",
        "json",
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def compose(*profiles: str, **variables: str) -> dict[str, Any]:
    """The compose file as docker-compose reads it, with these variables alone."""
    ran = run_compose("/dev/null", *profiles, folder=ROOT, **variables)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr, ran.stderr
    read: dict[str, Any] = json.loads(ran.stdout)
    return read


def write_secrets(folder: Path) -> tuple[str, dict[str, str]]:
    """Run scripts/env in ``folder``, as `make up` does in the repository: its output, and the variables of .env."""
    for name in ("scripts/env", "docker-compose.yml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    ran = subprocess.run([folder / "scripts/env"], capture_output=True, text=True, check=True, umask=0o022)
    lines = (folder / ".env").read_text().splitlines()
    return ran.stdout, dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The variables that `make up` makes."""
    return write_secrets(tmp_path_factory.mktemp("secrets"))[1]


@pytest.fixture(scope="module")
def services(secrets: dict[str, str]) -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = compose(**secrets)["services"]
    return read


def test_every_service_has_its_place_in_the_compose_file(services: dict[str, dict[str, Any]]) -> None:
    for name in (service.name for service in installed_services()):
        assert name in services, (
            f"docker-compose.yml has no service {name!r}: copy the block of `orders`, and replace the name in it"
        )
        assert services[name]["command"] == [f"towpath-{name}"]


def test_every_service_with_a_database_gets_one_in_the_compose_file(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in WITH_STORAGE:
        variable = f"{name.upper()}_DATABASE_PASSWORD"
        assert variable in services["postgres"]["environment"], (
            f"docker-compose.yml makes no database for {name!r}: add {variable} to the environment of `postgres`"
        )


@pytest.mark.parametrize(
    "service", ["gateway-1", "gateway-2", "ingress", *(service.name for service in installed_services())]
)
def test_a_program_can_start_with_its_settings(
    service: str, services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[services[service]["command"][0]]
    own = services[service]["environment"]
    unknown = [name for name in own if name.removeprefix("TOWPATH_").lower() not in model.model_fields]
    assert unknown == []
    for name, value in {**the_dockerfile().environment, **own}.items():
        if value is not None:  # It is that of .env, if there is one.
            monkeypatch.setenv(name, value)
    settings = load(model)
    if isinstance(settings, GatewaySettings):
        assert settings.gateway_id == service
        Admission(settings, Telemetry("gateway", settings))
    elif not isinstance(settings, IngressSettings):
        database = settings.model_dump()["database_url"]
        if service in WITH_STORAGE:
            assert database.startswith(f"postgresql+asyncpg://{service}:")
            assert database.endswith(f"@postgres/{service}")


def test_every_setting_of_the_image_is_a_setting_of_some_program() -> None:
    known = {name for model in MODELS.values() for name in model.model_fields} | {"web_root"}
    settings = [name for name in the_dockerfile().environment if name.startswith("TOWPATH_")]
    assert [name for name in settings if name.removeprefix("TOWPATH_").lower() not in known] == []


def test_the_page_is_served_with_existing_options(services: dict[str, dict[str, Any]]) -> None:
    program, command, *options = services["web"]["command"]
    shown = subprocess.run(
        [BIN / program, command, "--help"],
        env={**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert [option for option in options if option.partition("=")[0] not in shown] == []


def test_only_the_proxy_is_published_and_only_on_this_machine(services: dict[str, dict[str, Any]]) -> None:
    published = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert list(published) == ["proxy"]
    assert {port["host_ip"] for port in published["proxy"]} == {"127.0.0.1"}


def test_no_secret_has_a_default(secrets: dict[str, str]) -> None:
    for name in secrets:
        ran = run_compose("/dev/null", folder=ROOT, **{other: "given" for other in secrets if other != name})
        assert ran.returncode != 0
        assert f"required variable {name} is missing a value: run make up" in ran.stderr


def test_every_secret_comes_from_a_variable(secrets: dict[str, str]) -> None:
    given = {name: f"given-for-{name.lower()}" for name in (*secrets, "TOWPATH_AUTH_SECRET_PREVIOUS")}
    environments = [service.get("environment", {}) for service in compose(**given)["services"].values()]
    settings = {(name, value) for environment in environments for name, value in environment.items()}
    secret = [(name, value) for name, value in settings if re.search("SECRET|PASSWORD|_URL$", name)]
    assert secret
    assert [name for name, value in secret if "given-for-" not in value] == []


def test_make_up_writes_random_secrets_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    said, first = write_secrets(tmp_path)
    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    assert said == f"Towpath: .env has new secrets for {' '.join(first)}; only you can read it\n"
    assert first.keys() >= {"TOWPATH_AUTH_SECRET", "POSTGRES_PASSWORD"}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in first.values())
    assert len(set(first.values())) == len(first)
    assert write_secrets(tmp_path) == ("", first)
    assert [path.name for path in tmp_path.glob(".env*")] == [".env"]
    assert run_compose(tmp_path / ".env").returncode == 0


def test_make_up_keeps_what_is_in_env_and_adds_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEWAY_URL=wss://chat.example/ws\nTOWPATH_AUTH_SECRET=kept")
    said, written = write_secrets(tmp_path)
    assert written["GATEWAY_URL"] == "wss://chat.example/ws"
    assert written["TOWPATH_AUTH_SECRET"] == "kept"
    assert "TOWPATH_AUTH_SECRET" not in said
    assert len(written["POSTGRES_PASSWORD"]) == 64


def test_services_wait_for_their_dependencies_and_have_time_to_drain(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        ends = name == ACCOUNTS
        assert service["restart"] == ("no" if ends else "unless-stopped"), name
        assert service["image"] == "towpath" or ":" in service["image"], f"{name}: no version"
        assert service["image"] == "towpath" or "healthcheck" in service, f"{name}: no health check"
        for other, needed in service.get("depends_on", {}).items():
            condition = "service_completed_successfully" if other == ACCOUNTS else "service_healthy"
            assert needed["condition"] == condition, name
        if service["image"] == "towpath":
            assert service["stop_grace_period"] == "45s", name
            assert GatewaySettings.model_fields["drain_timeout"].default < 45


def account_of(service: Mapping[str, Any]) -> str | None:
    return URL(service["environment"]["TOWPATH_AMQP_URL"]).user


def test_each_program_has_an_account_of_its_own_at_rabbitmq(
    services: dict[str, dict[str, Any]], secrets: dict[str, str]
) -> None:
    with_broker = {
        name: account_of(service)
        for name, service in services.items()
        if "TOWPATH_AMQP_URL" in service.get("environment", {})
    }
    own = {service.name: service.name for service in installed_services()}
    programs = {"gateway-1": "gateway", "gateway-2": "gateway", "web": "backend", "ingress": "ingress"}
    assert with_broker == programs | own
    for name in own:
        assert services[name]["environment"]["TOWPATH_GATEWAY_USERS"] == "gateway"
    accounts = {variable(account.name) for account in Wanted().accounts()}
    assert services[ACCOUNTS]["environment"].keys() == accounts
    assert {name for name in secrets if name.startswith(PASSWORD)} == accounts


async def test_rabbitmq_starts_with_these_accounts_and_no_other_and_the_programs_work_with_them(
    services: dict[str, dict[str, Any]], processes: Processes, tmp_path: Path
) -> None:
    """The command of `accounts`, the configuration of `rabbitmq` and the settings of the programs, together."""
    program, *arguments = services[ACCOUNTS]["command"]
    written = tmp_path / "definitions.json"
    await asyncio.to_thread(
        subprocess.run,
        [BIN / program, *(re.sub(r"(--output=).*", rf"\g<1>{written}", word) for word in arguments)],
        env={"PATH": os.environ["PATH"], **services[ACCOUNTS]["environment"]},
        check=True,
    )
    configuration = "\n".join(the_configuration_of_rabbitmq())
    mounted = re.sub(r"/etc/rabbitmq/accounts/definitions\.json", str(written), configuration)
    assert str(written) in mounted
    name = "compose@127.0.0.1"
    member = Member(name, dist_port=free_port(), peers=[name], settings=mounted.splitlines())
    async with RabbitNode(member=member) as node:
        users = node.evaluate(
            "[proplists:get_value(user, U) || U <- rabbit_auth_backend_internal:list_users()]"
        )
        assert sorted(re.findall(r'<<"([^"]+)">>', users)) == sorted(one.name for one in Wanted().accounts())

        def settings(service: str, **more: Any) -> dict[str, Any]:
            own: dict[str, Any] = {
                name.removeprefix("TOWPATH_").lower(): value
                for name, value in services[service]["environment"].items()
                if value is not None
            }
            own["amqp_url"] = own["amqp_url"].replace("rabbitmq:5672", f"127.0.0.1:{node.port}")
            return own | more

        key = keys.make(tmp_path / "keys.json", "shop", ("order.*",), push=True)
        ingress_port = free_port()
        gateway, *_ = await asyncio.gather(
            processes.start("towpath-gateway", **settings("gateway-1", port=free_port())),
            processes.start(
                "towpath-ingress", **settings("ingress", port=ingress_port, api_keys=tmp_path / "keys.json")
            ),
            *(
                processes.start(
                    f"towpath-{one.name}",
                    **settings(one.name, database_url=f"sqlite:///{tmp_path}/{one.name}.db"),
                )
                for one in installed_services()
            ),
        )
        secret = services["gateway-1"]["environment"]["TOWPATH_AUTH_SECRET"]
        url = f"ws://127.0.0.1:{gateway.settings['TOWPATH_PORT']}/ws"
        async with WireClient.connect(url, token=a_token("ana", secret=secret)) as ana:
            answer = await ana.request("order.submit", {"order_id": "O1", "amount": "9.00"})
            assert answer["data"]["status"] == "submitted"
            assert (await ana.request("chat.join", {"room": "lobby"}))["action"] == "chat.join.ok"
            async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as backend:
                event = {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}}
                for path, body in (("events", event), ("push", {"user_id": "ana", "envelope": event})):
                    url = f"http://127.0.0.1:{ingress_port}/v1/{path}"
                    async with backend.post(url, json=body) as accepted:
                        assert accepted.status == 202, await accepted.text()
            await ana.find(
                lambda frame: frame["action"] == "order.updated" and frame["data"].get("status") == "paid"
            )


def the_configuration_of_rabbitmq() -> list[str]:
    """The lines of deploy/rabbitmq/rabbitmq.conf without comments."""
    text = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_the_nodes_of_tests_write_logs_as_small_as_those_of_deployments() -> None:
    assert f"raft.wal_max_size_bytes = {WAL_MAX_SIZE_BYTES}" in the_configuration_of_rabbitmq()


async def acknowledge(message: aio_pika.abc.AbstractIncomingMessage) -> None:
    await message.ack()


async def test_large_messages_do_not_fill_the_memory_of_the_compose_files_rabbitmq(
    services: dict[str, dict[str, Any]],
) -> None:
    """Quorum queues used to keep what they had written in memory until the alarm stopped all publishers for good."""
    alarm_at = int(int(services["rabbitmq"]["mem_limit"]) * RABBITMQ_4_WATERMARK)
    settings = [line for line in the_configuration_of_rabbitmq() if not line.startswith("load_definitions")]
    settings.append(f"vm_memory_high_watermark.absolute = {alarm_at}")
    name = "memory@127.0.0.1"
    member = Member(name, dist_port=free_port(), peers=[name], settings=settings)
    body = os.urandom(250_000)
    async with RabbitNode(member=member) as node, await aio_pika.connect(node.url()) as connection:
        channel = await connection.channel()
        await channel.set_qos(50)
        queue = await channel.declare_queue("large", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.consume(acknowledge)
        for _ in range(2 * alarm_at // (20 * len(body))):
            async with asyncio.timeout(30):
                message = aio_pika.Message(body, delivery_mode=2)
                await asyncio.gather(
                    *(channel.default_exchange.publish(message, queue.name) for _ in range(20))
                )
        assert node.evaluate("rabbit_alarm:get_alarms()") == "[]"


def test_every_mounted_or_built_path_exists(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).is_file(), volume
        if "build" in service:
            assert Path(service["build"]["context"], service["build"]["dockerfile"]).is_file()


def test_containers_of_the_compose_file_are_the_servers_of_the_proxy() -> None:
    servers = re.findall(r"^ +server (\S+) (\S+):(\d+)", (ROOT / "deploy/haproxy.cfg").read_text(), re.M)
    assert servers == [
        ("gateway-1", "gateway-1", "8080"),
        ("gateway-2", "gateway-2", "8080"),
        ("gateway-3", "gateway-3", "8080"),
        ("web", "web", "8000"),
        ("ingress", "ingress", "8090"),
    ]
    named = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {name for name, _, _ in servers} <= named.keys()


# Its profiles


@pytest.mark.parametrize("profile", ["observability", "cluster", "gateway-3"])
def test_a_profile_adds_containers_and_changes_none(
    profile: str, services: dict[str, dict[str, Any]], secrets: dict[str, str]
) -> None:
    with_profile = compose(profile, **secrets)["services"]
    assert with_profile.keys() > services.keys()
    assert {name: with_profile[name] for name in services} == services
    for name in with_profile.keys() - services.keys():
        container = with_profile[name]
        name_of_image, _, tag = container["image"].partition(":")
        assert name_of_image == "towpath" or tag not in ("", "latest"), name
        assert container["restart"] == "unless-stopped"
        assert int(container["mem_limit"]) > 0
        assert {port["host_ip"] for port in container.get("ports", ())} <= {"127.0.0.1"}, name
        for volume in container.get("volumes", ()):
            assert volume["type"] == "volume" or Path(volume["source"]).is_file(), volume


def test_the_third_gateway_differs_in_its_id_alone(secrets: dict[str, str]) -> None:
    containers = compose("gateway-3", **secrets)["services"]
    third, second = containers["gateway-3"], containers["gateway-2"]
    assert third.pop("profiles") == ["gateway-3"]
    assert third["environment"].pop("TOWPATH_GATEWAY_ID") == "gateway-3"
    assert second["environment"].pop("TOWPATH_GATEWAY_ID") == "gateway-2"
    assert third == second


def test_the_example_of_an_override_leaves_out_the_demo_and_the_secret_and_publishes_tls(
    secrets: dict[str, str], tmp_path: Path
) -> None:
    page = (ROOT / "docs/operations/compose.md").read_text()
    (example,) = (block for block in blocks_of(page, "yaml") if block.name == "docker-compose.override.yml")
    for file in ("docker-compose.yml", "deploy"):
        (tmp_path / file).symlink_to(ROOT / file)
    (tmp_path / "docker-compose.override.yml").write_text(example.text)
    ran = run_compose("/dev/null", folder=tmp_path, **secrets)
    assert ran.returncode == 0, ran.stderr
    read = json.loads(ran.stdout)["services"]
    assert "web" not in read
    published = {port["published"]: port.get("host_ip") for port in read["proxy"]["ports"]}
    assert published == {"443": None, "8090": "127.0.0.1"}
    mounted = {volume["target"]: Path(volume["source"]).name for volume in read["proxy"]["volumes"]}
    assert mounted["/usr/local/etc/haproxy/haproxy.cfg"] == "haproxy.cfg"
    for name in ("gateway-1", "gateway-2"):
        own = read[name]["environment"]
        assert "TOWPATH_AUTH_SECRET" not in own
        assert own["TOWPATH_AUTH_JWKS_URL"].startswith("https://")
        assert own["TOWPATH_GATEWAY_ID"] == name


def test_nodes_of_the_cluster_find_each_other_and_share_a_cookie_and_the_accounts(
    secrets: dict[str, str],
) -> None:
    containers = compose("cluster", **secrets)["services"]
    nodes = {name: one for name, one in containers.items() if one["image"].startswith("rabbitmq:")}
    assert len(nodes) == 3
    conf = (ROOT / "deploy/rabbitmq/cluster.conf").read_text()
    assert re.findall(r"nodes\.\d = rabbit@(\S+)$", conf, re.M) == list(nodes)
    for name, node in nodes.items():
        assert node["hostname"] == name
        assert node["environment"] == nodes["rabbitmq"]["environment"]
        assert secrets["RABBITMQ_COOKIE"] in node["environment"]["RABBITMQ_CTL_ERL_ARGS"]
        mounted = {volume["target"]: volume["source"] for volume in node["volumes"]}
        assert mounted["/var/lib/rabbitmq"] == name, "each node has data of its own"
        assert mounted["/etc/rabbitmq/accounts"] == "accounts"
        joins = str(ROOT / "deploy/rabbitmq/cluster.conf") in mounted.values()
        assert joins == (name != "rabbitmq"), "the first node is there, and the others join it"


def test_programs_know_all_nodes_of_the_cluster_and_send_traces_where_the_variables_say(
    secrets: dict[str, str],
) -> None:
    brokers = "rabbitmq:5672,rabbitmq-2:5672,rabbitmq-3:5672"
    given = {"RABBITMQ_NODES": brokers, "TOWPATH_OTLP_ENDPOINT": "http://jaeger:4318"}
    containers = compose("cluster", "observability", "ops", **secrets, **given)["services"]
    urls = {
        name: one["environment"]["TOWPATH_AMQP_URL"]
        for name, one in containers.items()
        if "TOWPATH_AMQP_URL" in one.get("environment", {})
    }
    assert len(urls) > 5
    assert {url.partition("@")[2] for url in urls.values()} == {f"{brokers}/"}
    for name, one in containers.items():
        if (one.get("command") or [""])[0].startswith("towpath-"):
            assert one["environment"]["TOWPATH_OTLP_ENDPOINT"] == "http://jaeger:4318", name


# The image


@dataclass
class Stage:
    """One stage of a Dockerfile: its instructions in order, as ``(instruction, rest)``."""

    instructions: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [rest for instruction, rest in self.instructions if instruction == name]

    @property
    def environment(self) -> dict[str, str]:
        pairs = [pair for rest in self.all("ENV") for pair in shlex.split(rest)]
        return dict(pair.split("=", 1) for pair in pairs if not pair.startswith("PATH="))


@dataclass
class Dockerfile:
    page: Stage
    build: Stage
    slim: Stage
    system: Stage
    final: Stage

    @property
    def environment(self) -> dict[str, str]:
        return self.final.environment


def the_dockerfile() -> Dockerfile:
    lines = (ROOT / "deploy/Dockerfile").read_text().splitlines()
    joined = "\n".join(line for line in lines if not line.startswith("#")).replace("\\\n", " ")
    stages: list[Stage] = []
    for line in filter(str.strip, joined.splitlines()):
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            stages.append(Stage())
        elif stages:
            stages[-1].instructions.append((instruction, rest.strip()))
    return Dockerfile(*stages)


def test_hadolint_has_no_complaint_about_the_dockerfile() -> None:
    ran = subprocess.run(
        [BIN / "hadolint", ROOT / "deploy/Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stdout) == (0, "")


def test_the_image_runs_as_an_unprivileged_user_with_a_health_check() -> None:
    final = the_dockerfile().final
    assert final.all("USER") == ["10001:10001"]
    assert "ENTRYPOINT" not in dict(final.instructions)
    last_root_step = max(n for n, (name, _) in enumerate(final.instructions) if name in ("RUN", "COPY"))
    assert final.instructions.index(("USER", "10001:10001")) > last_root_step
    assert "/health/ready" in final.all("HEALTHCHECK")[0]


def test_the_image_is_labelled_with_the_version_of_its_programs() -> None:
    labels = " ".join(the_dockerfile().final.all("LABEL"))
    assert f'org.opencontainers.image.version="{version("towpath-gateway")}"' in labels


@pytest.fixture(scope="module")
def build_context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build context that .dockerignore allows."""
    context = tmp_path_factory.mktemp("context")
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    for name in exclude_paths(str(ROOT), patterns):
        if (ROOT / name).is_file():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    return context


def test_every_copied_file_is_in_the_build_context(build_context: Path) -> None:
    dockerfile = the_dockerfile()
    copies = [
        *dockerfile.page.all("COPY"),
        *dockerfile.build.all("COPY"),
        *(rest for rest in dockerfile.final.all("COPY") if "--from=" not in rest),
    ]
    for copy in copies:
        *sources, _ = copy.split()
        for source in sources:
            assert (build_context / source).exists(), copy


def test_the_build_context_has_no_tests_caches_or_unknown_files(build_context: Path) -> None:
    parts = {part for path in build_context.rglob("*") for part in path.relative_to(build_context).parts}
    assert parts.isdisjoint({"tests", "test", "testkit", "__pycache__", ".git", ".venv", ".env", "deploy"})
    assert parts.isdisjoint({"node_modules", "dist"})


@pytest.fixture(scope="module")
def image(build_context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``/opt/towpath`` of the image: the build stage, step by step, below a folder instead of ``/``."""
    root = tmp_path_factory.mktemp("image")
    base, target = root / "base", root / "opt/towpath"
    subprocess.run([sys.executable, "-m", "venv", base], check=True)
    build(the_dockerfile().build, build_context, root / "src", {"/opt/towpath": str(target)}, base / "bin")
    return target


@pytest.fixture(scope="module")
def page(build_context: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the image, built likewise."""
    source = tmp_path_factory.mktemp("page") / "src"
    build(the_dockerfile().page, build_context, source, {}, Path(find_or_install(NPM)).parent)
    (copied,) = [rest.split() for rest in the_dockerfile().final.all("COPY") if "--from=page" in rest]
    return source / Path(copied[1]).relative_to("/src/clients")


def build(stage: Stage, context: Path, source: Path, moved: dict[str, str], programs: Path) -> None:
    """The steps of a stage, one by one, in the folder ``source`` instead of its WORKDIR."""
    source.mkdir()
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    environment = {**kept, **stage.environment, "PATH": f"{programs}:{os.environ['PATH']}"}
    for instruction, rest in stage.instructions:
        if instruction == "COPY":
            *names, to = rest.split()
            for name in names:
                copy = source / Path(name).name if to == "./" else source / to
                copy.parent.mkdir(parents=True, exist_ok=True)
                if (context / name).is_dir():
                    shutil.copytree(context / name, copy, dirs_exist_ok=True)
                else:
                    shutil.copy2(context / name, copy)
        elif instruction == "RUN":
            step = re.sub(r"--mount=\S+", "", rest)
            for there, here in moved.items():
                step = step.replace(there, here)
            ran = subprocess.run(
                step, shell=True, cwd=source, env=environment, capture_output=True, text=True, check=False
            )
            assert ran.returncode == 0, f"RUN {step}\n{ran.stdout}{ran.stderr}"


@pytest.mark.timeout(300)
def test_the_page_of_the_image_has_its_files(page: Path) -> None:
    text = (page / "index.html").read_text()
    files = re.findall(r'(?:src|href)="\./([^"]+)"', text)
    assert "<title>Towpath" in text
    assert [name for name in files if not (page / name).is_file()] == []
    assert {Path(name).suffix for name in files} >= {".js", ".css"}


@pytest.mark.timeout(300)
async def test_the_programs_of_the_image_serve_a_request(
    image: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    port = free_port()
    started = await asyncio.gather(
        processes.start(
            str(image / "bin/towpath-gateway"), port=port, amqp_url=rabbitmq.url, **AUTH_SETTINGS
        ),
        *(
            processes.start(
                str(image / f"bin/towpath-{service}"),
                amqp_url=rabbitmq.url,
                database_url=f"sqlite:///{tmp_path}/{service}.db",
            )
            for service in (service.name for service in installed_services())
        ),
    )
    async with WireClient.connect(f"ws://127.0.0.1:{port}/ws", token=a_token("ana")) as ana:
        answer = await ana.request("order.submit", {"order_id": "O1", "amount": "9.00"})
        assert answer["data"]["status"] == "submitted"
    for process in started:
        check = health_check().replace("PORT", process.settings["TOWPATH_ADMIN_PORT"])
        asked = await asyncio.create_subprocess_exec(image / "bin/python", "-c", check)
        assert await asked.wait() == 0


def health_check() -> str:
    """The health check's Python, with ``PORT`` for the port."""
    rest = the_dockerfile().final.all("HEALTHCHECK")[0]
    command: list[str] = json.loads(rest[rest.index("CMD ") + 4 :])
    assert command[:2] == ["python", "-c"]
    return command[2].replace('{os.environ["TOWPATH_ADMIN_PORT"]}', "PORT")


def test_the_image_contains_the_locked_packages_only(image: Path) -> None:
    listed = subprocess.run(
        [BIN / "uv", "pip", "list", "--format=json", f"--python={image / 'bin/python'}"],
        capture_output=True,
        text=True,
        check=True,
    )
    installed = {package["name"]: package for package in json.loads(listed.stdout)}
    own = {name for name in installed if name.startswith("towpath-")}
    services = [project.parent.name for project in ROOT.glob("services/*/pyproject.toml")]
    assert own == {
        f"towpath-{part}" for part in ("protocol", "publisher", "servicekit", "client", "tools", *services)
    }
    assert {service.name for service in installed_services()} <= set(services)
    assert not any("editable_project_location" in installed[name] for name in own)
    assert installed.keys() - own <= pins("requirements-runtime.lock").keys()


def test_the_image_has_the_tested_versions() -> None:
    tested, shipped = pins("requirements.lock"), pins("requirements-runtime.lock")
    assert {name: tested.get(name) for name in shipped} == shipped
    assert "pytest" not in shipped


def pins(lock: str) -> dict[str, str]:
    """Name → version, marker and hashes of a lock, which contains no address."""
    content = (ROOT / lock).read_text()
    assert "://" not in content
    requirements = re.findall(r"^([a-z0-9._-]+)(?:\[[^]]*\])?(==(?:.*\\\n)*.*)$", content, re.M)
    for name, rest in requirements:
        assert "--hash=sha256:" in rest, f"{name}: no hash"
    return {name: " ".join(rest.replace("\\", " ").split()) for name, rest in requirements}


# The databases


def password_of(service: str) -> str:
    """With the characters that a shell, SQL and a URL each give a meaning."""
    return f'it\'s "{service}"'


@pytest.fixture
def service_databases(postgres: Postgres) -> Iterator[Postgres]:
    """A server on which the script of the compose file has run."""
    environment = {
        "PATH": f"{find_or_install(POSTGRESQL).parent}:{os.environ['PATH']}",
        "PGHOST": postgres.host,
        "PGPORT": str(postgres.port),
        "PGPASSWORD": postgres.password,
        **{f"{name.upper()}_DATABASE_PASSWORD": password_of(name) for name in WITH_STORAGE},
    }
    script = ROOT / "deploy/postgres-databases.sh"
    try:
        subprocess.run([script], env=environment, check=True)
        yield postgres
    finally:
        for service in WITH_STORAGE:
            subprocess.run(
                ["psql", "--quiet", "--username=postgres", "--dbname=postgres"],
                input=f"DROP DATABASE IF EXISTS {service} WITH (FORCE); DROP ROLE IF EXISTS {service};",
                env=environment,
                text=True,
                check=True,
                capture_output=True,
            )


@pytest.mark.parametrize("user", WITH_STORAGE)
async def test_each_service_owns_its_database_and_enters_no_other(
    user: str, service_databases: Postgres
) -> None:
    storage = WITH_STORAGE[user].definition().storage
    assert storage is not None

    async def enter(database: str) -> None:
        async with (
            Database.open(
                as_user(user, password_of(user), service_databases.url(database)),
                service=user,
                migrations=storage.migrations,
            ) as opened,
            opened.reading() as connection,
        ):
            await connection.execute(text(f"SELECT * FROM {user}_inbox"))

    await enter(user)
    for foreign in WITH_STORAGE.keys() - {user}:
        with pytest.raises(BadSetting, match="permission denied"):
            await enter(foreign)


async def test_a_role_of_a_service_cannot_create_a_role(service_databases: Postgres) -> None:
    engine = create_async_engine(service_databases.url("postgres"))
    async with engine.connect() as connection:
        rows = await connection.execute(
            text(
                "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb FROM pg_roles "
                "WHERE rolname = ANY(:services) ORDER BY rolname"
            ),
            {"services": list(WITH_STORAGE)},
        )
        assert [tuple(row) for row in rows] == [(name, False, False, False) for name in WITH_STORAGE]
    await engine.dispose()


def as_user(user: str, password: str, url: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(url).set(username=user, password=password).render_as_string(hide_password=False)


# The proxy


@dataclass
class Proxy:
    """HAProxy with deploy's configuration, its ports and servers replaced.

    Attributes:
        url: Where the gateways are reached.
        page_url: Where the page is.
        events_url: Where other backends publish.
    """

    process: Process
    url: str
    page_url: str
    events_url: str


@pytest.fixture(scope="module")
def haproxy() -> Path:
    try:
        return find_or_install(HAPROXY)
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)


async def start_proxy(
    haproxy: Path,
    processes: Processes,
    folder: Path,
    gateways: Mapping[str, tuple[int, int]],
    page: int | None = None,
    ingress: tuple[int, int] | None = None,
) -> Proxy:
    """Start the proxy; ``gateways`` and ``ingress`` give port and admin port."""
    configuration = re.sub(
        r"(?m)^ +server (gateway-\d) .*\n",
        lambda line: line[0] if line[1] in gateways else "",
        (ROOT / "deploy/haproxy.cfg").read_text(),
    )
    replaced = {f"{name}:8080 port 9090": at(*ports) for name, ports in gateways.items()}
    replaced["web:8000"] = f"127.0.0.1:{page or free_port()}"
    replaced["ingress:8090 port 9090"] = at(*(ingress or (free_port(), free_port())))
    listening = {inside: free_port() for inside in (8080, 8000, 8090, 9090)}
    replaced |= {f"bind :{inside}\n": f"bind 127.0.0.1:{port}\n" for inside, port in listening.items()}
    for old, new in replaced.items():
        assert configuration.count(old) == 1, old
        configuration = configuration.replace(old, new)
    path = folder / "haproxy.cfg"
    path.write_text(configuration)
    process = await processes.start(
        str(haproxy), "-db", "-f", str(path), name="haproxy", admin_port=listening[9090]
    )
    return Proxy(
        process,
        f"ws://127.0.0.1:{listening[8080]}/ws",
        f"http://127.0.0.1:{listening[8000]}/",
        f"http://127.0.0.1:{listening[8090]}/v1/events",
    )


def ports_of(gateway: Process) -> tuple[int, int]:
    return int(gateway.settings["TOWPATH_PORT"]), int(gateway.settings["TOWPATH_ADMIN_PORT"])


def at(port: int, admin_port: int) -> str:
    return f"127.0.0.1:{port} port {admin_port}"


def test_haproxy_accepts_the_configuration(haproxy: Path) -> None:
    ran = subprocess.run(
        [haproxy, "-c", "-f", ROOT / "deploy/haproxy.cfg"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    warnings = [line for line in ran.stderr.splitlines() if "WARNING" in line]
    # The names of containers mean nothing here.
    assert [line for line in warnings if "could not resolve address" not in line] == []


@pytest_asyncio.fixture
async def two_gateways(processes: Processes, rabbitmq: Rabbit, tmp_path: Path) -> dict[str, Process]:
    """Two gateways by name, with orders behind them."""
    started = await asyncio.gather(
        *(
            processes.start(
                "towpath-gateway",
                name=name,
                gateway_id=name,
                port=free_port(),
                amqp_url=rabbitmq.url,
                **AUTH_SETTINGS,
            )
            for name in ("gateway-1", "gateway-2")
        ),
        processes.start(
            "towpath-orders", amqp_url=rabbitmq.url, database_url=f"sqlite:///{tmp_path}/orders.db"
        ),
    )
    return {process.name: process for process in started[:2]}


async def test_users_of_a_stopping_gateway_continue_on_the_other_through_the_proxy(
    haproxy: Path, two_gateways: dict[str, Process], processes: Processes, tmp_path: Path
) -> None:
    ports = {name: ports_of(process) for name, process in two_gateways.items()}
    proxy = await start_proxy(haproxy, processes, tmp_path, ports)
    async with contextlib.AsyncExitStack() as stack:
        people = {user: await enter(stack, proxy, user) for user in ("ana", "ben", "eva", "tom")}
        at_gateway = {user: await gateway_of(client) for user, client in people.items()}
        assert sorted(at_gateway.values()) == ["gateway-1", "gateway-1", "gateway-2", "gateway-2"]
        for user, client in people.items():
            answer = await client.request("order.submit", {"order_id": f"O-{user}", "amount": "9.00"})
            assert answer["action"] == "order.submit.ok"

        stopping = asyncio.create_task(two_gateways["gateway-1"].terminate())
        for user, gateway in at_gateway.items():
            if gateway == "gateway-1":
                assert await people[user].closed() == 1012
                people[user] = await enter(stack, proxy, user)
                assert await gateway_of(people[user]) == "gateway-2"
        assert await stopping == 0
        for user, client in people.items():
            answer = await client.request("order.get", {"order_id": f"O-{user}"})
            assert answer["data"]["status"] == "submitted"


async def test_a_refusal_by_a_draining_gateway_is_hidden_by_the_proxy(
    haproxy: Path, two_gateways: dict[str, Process], processes: Processes, tmp_path: Path
) -> None:
    async with a_draining_gateway() as (draining, refusals):
        ports = {"gateway-1": (draining, draining), "gateway-2": ports_of(two_gateways["gateway-2"])}
        proxy = await start_proxy(haproxy, processes, tmp_path, ports)
        async with contextlib.AsyncExitStack() as stack:
            for user in ("ana", "ben", "eva"):
                assert await gateway_of(await enter(stack, proxy, user)) == "gateway-2"
        assert refusals, "the draining gateway was never asked"


async def test_the_proxy_passes_events_to_the_ingress_and_answers_503_while_it_is_away(
    haproxy: Path, processes: Processes, rabbitmq: Rabbit, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    key = keys.make(file, "shop", ("order.*",), push=False)
    ingress = await processes.start("towpath-ingress", port=free_port(), amqp_url=rabbitmq.url, api_keys=file)
    gateways = {name: (free_port(), free_port()) for name in ("gateway-1", "gateway-2")}
    proxy = await start_proxy(haproxy, processes, tmp_path, gateways, ingress=ports_of(ingress))
    event = {"action": "order.paid", "data": {"order_id": "O1", "user_id": "ana"}}
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {key}"}) as backend:

        async def kind() -> str:
            async with backend.post(proxy.events_url, json=event) as answer:
                assert answer.content_type == "application/problem+json"
                problem = await answer.json(content_type=None)
                assert problem["status"] == answer.status
                return str(problem["type"]).rpartition(":")[2]

        # No service runs here: the ingress itself has answered.
        assert await eventually(kind) == "unroutable"
        assert await ingress.terminate() == 0
        assert await kind() == "unavailable"


async def test_the_page_behind_the_proxy_gives_a_token_and_publishes_as_another_backend(
    haproxy: Path,
    two_gateways: dict[str, Process],
    processes: Processes,
    rabbitmq: Rabbit,
    services: dict[str, dict[str, Any]],
    tmp_path: Path,
) -> None:
    port = free_port()
    program, *options = services["web"]["command"]
    page = processes.launch(
        program,
        *(f"--port={port}" if option == "--port=8000" else option for option in options),
        name="web",
        amqp_url=rabbitmq.url,
        auth_secret=SECRET,
    )
    ports = {name: ports_of(process) for name, process in two_gateways.items()}
    proxy = await start_proxy(haproxy, processes, tmp_path, ports, page=port)
    async with aiohttp.ClientSession(proxy.page_url, raise_for_status=True) as browser:

        async def shown() -> str:
            assert page.status is None, page.output
            try:
                async with browser.get("/") as answer:
                    return await answer.text()
            except aiohttp.ClientError as error:
                raise AssertionError(f"no page yet: {error}") from None

        async def ask(path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
            async with browser.request("GET" if body is None else "POST", path, json=body) as answer:
                told: dict[str, Any] = await answer.json()
                return told

        assert "<title>Towpath</title>" in await eventually(shown)
        assert (await ask("/config.json"))["gateways"] == ["ws://127.0.0.1:8080/ws"]
        foreign = {"Host": "rebound.example", "Origin": "http://rebound.example"}
        body = {"user": "ana"}
        async with browser.post("/demo/token", json=body, headers=foreign, raise_for_status=False) as refused:
            assert refused.status == 403
        token = (await ask("/demo/token", body))["token"]
        async with WireClient.connect(proxy.url, token=token, via="subprotocol") as ana:
            event = {"action": "order.shipped", "data": {"order_id": "O1", "user_id": "ana"}}
            await ask("/demo/events", event)
            assert (await ana.next("order.updated"))["data"]["status"] == "shipped"


@contextlib.asynccontextmanager
async def a_draining_gateway() -> AsyncIterator[tuple[int, list[str]]]:
    """One whose readiness is still believed, and who refuses connections; yields its port and the refusals."""
    refusals: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        if request.startswith("GET /health/ready "):
            status = "200 OK"
        else:
            refusals.append(request)
            status = "503 Service Unavailable"
        writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], refusals


async def enter(stack: contextlib.AsyncExitStack, proxy: Proxy, user: str) -> WireClient:
    return await stack.enter_async_context(WireClient.connect(proxy.url, token=a_token(user)))


async def gateway_of(client: WireClient) -> str:
    welcome = await client.next("session.welcome")
    return str(welcome["data"]["gateway_id"])
