"""The manifests of deploy/k8s: what they name exists, and each pod is as careful as the compose file's containers."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from towpath.gateway.settings import GatewaySettings
from towpath.ingress.settings import IngressSettings
from towpath.protocol.routes import PARTITIONS, command_queue
from towpath.servicekit.installed import installed_services
from towpath.servicekit.runtime.settings import BrokerSettings, load

ROOT: Final = Path(__file__).parent.parent
MANIFESTS: Final = ROOT / "deploy/k8s"
FOLDERS: Final = (MANIFESTS, MANIFESTS / "keda", MANIFESTS / "rabbitmq")
BIN: Final = Path(sys.executable).parent
#: Those that have a manifest; a new service gets one when it is deployed there.
SERVICES: Final = sorted(
    service.name for service in installed_services() if (MANIFESTS / f"{service.name}.yaml").exists()
)

Object = dict[str, Any]


def read(path: Path) -> list[Object]:
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def objects(*kinds: str) -> Iterator[Object]:
    """All objects that the kustomizations name, or those of some kinds."""
    for folder in FOLDERS:
        for name in read(folder / "kustomization.yaml")[0]["resources"]:
            yield from (one for one in read(folder / name) if not kinds or one["kind"] in kinds)


DEPLOYMENTS: Final[dict[str, Object]] = {one["metadata"]["name"]: one for one in objects("Deployment")}
#: Those with an admin port: all but the page.
PROGRAMS: Final = [name for name in DEPLOYMENTS if name != "web"]
MODELS: Final[dict[str, type[BrokerSettings]]] = {
    "gateway": GatewaySettings,
    "ingress": IngressSettings,
    **{service.name: service.settings() for service in installed_services()},
}
every_deployment = pytest.mark.parametrize("name", sorted(DEPLOYMENTS))
every_program = pytest.mark.parametrize("name", sorted(PROGRAMS))


def pod_of(name: str) -> Object:
    pod: Object = DEPLOYMENTS[name]["spec"]["template"]["spec"]
    return pod


def container_of(name: str) -> Object:
    (container,) = pod_of(name)["containers"]
    assert isinstance(container, dict)
    return container


def image_settings() -> dict[str, str]:
    """The settings that the image brings."""
    text = (ROOT / "deploy/Dockerfile").read_text()
    return dict(re.findall(r"(TOWPATH_\w+)=([^\s\\]+)", text[text.index("\nENV PATH=") :]))


def common_settings() -> dict[str, str]:
    """Those of settings.env."""
    lines = (MANIFESTS / "settings.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_each_file_belongs_to_a_kustomization_and_each_name_there_is_a_file() -> None:
    for folder in FOLDERS:
        (kustomization,) = read(folder / "kustomization.yaml")
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert set(kustomization["resources"]) == files
        assert kustomization["kind"] == ("Kustomization" if folder == MANIFESTS else "Component")


def test_each_object_has_one_name_and_no_namespace_of_its_own() -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in objects()]
    assert len(set(names)) == len(names)
    assert all("namespace" not in one["metadata"] for one in objects())


def test_every_program_has_a_deployment() -> None:
    assert {"chat", "inventory", "notifications", "orders"} <= set(SERVICES)
    assert sorted(DEPLOYMENTS) == sorted({"gateway", "ingress", "web", *SERVICES})


@every_deployment
def test_the_command_of_a_container_exists_with_its_options(name: str) -> None:
    program, *arguments = container_of(name)["command"]
    assert (BIN / program).is_file()
    if arguments:
        command, *options = arguments
        shown = subprocess.run(
            [BIN / program, command, "--help"],
            env={"PATH": str(BIN), "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        assert [option for option in options if option.partition("=")[0] not in shown] == []


@every_program
def test_a_program_can_start_with_its_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = MODELS[name]
    secret = {
        "amqp-url": f"amqp://{name}:secret@rabbitmq/",
        "database-url": f"postgresql://{name}:s@db/{name}",
    }
    own: dict[str, str] = {}
    for variable in container_of(name)["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            assert source["secretKeyRef"]["name"] == f"towpath-{name}"
            own[variable["name"]] = secret[source["secretKeyRef"]["key"]]
        else:
            own[variable["name"]] = variable.get("value", "gateway-7d9c5b8f6d-x2x4z")
    assert [key for key in own if key.removeprefix("TOWPATH_").lower() not in model.model_fields] == []
    for key, value in {**image_settings(), **common_settings(), **own}.items():
        monkeypatch.setenv(key, value)
    settings = load(model)
    ports = {port["name"]: port["containerPort"] for port in container_of(name)["ports"]}
    assert ports.pop("admin") == settings.admin_port
    assert list(ports.values()) == ([settings.model_dump()["port"]] if ports else [])
    assert pod_of(name)["terminationGracePeriodSeconds"] >= settings.drain_timeout + 10 + pre_stop_of(name)


def pre_stop_of(name: str) -> float:
    """The seconds of a container's preStop, which the grace period includes."""
    hook = container_of(name).get("lifecycle", {}).get("preStop")
    if hook is None:
        return 0
    program, seconds = hook["exec"]["command"]
    assert program == "sleep"
    return float(seconds)


def test_the_common_settings_exist_and_contain_no_secret() -> None:
    known = {field for model in MODELS.values() for field in model.model_fields}
    assert [key for key in common_settings() if key.removeprefix("TOWPATH_").lower() not in known] == []
    assert not re.search(r"SECRET|PASSWORD|AMQP_URL|DATABASE_URL|://[^/\s]*@", str(common_settings()))


def test_no_secret_is_written_into_a_manifest() -> None:
    assert list(objects("Secret")) == []
    for path in MANIFESTS.rglob("*.yaml"):
        assert not re.search(r"://[^/\s]*:[^/\s]*@|password:|BEGIN .*KEY", path.read_text()), path


def test_the_page_says_how_each_secret_is_made() -> None:
    page = (ROOT / "docs/operations/production.md").read_text()
    text = "\n".join(path.read_text() for path in MANIFESTS.rglob("*.yaml"))
    named = set(re.findall(r"secretName: (\S+)", text)) | set(
        re.findall(r"secretKeyRef:\s+name: (\S+)", text)
    )
    named |= set(re.findall(r"secretTargetRef:\s+- parameter: \w+\s+name: (\S+)", text))
    assert len(named) > 5
    assert [name for name in named if name not in page] == []


@every_deployment
def test_a_pod_is_as_restricted_as_it_can_be(name: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    pod, container = pod_of(name), container_of(name)
    assert pod["enableServiceLinks"] is False, "a Service named towpath would set TOWPATH_PORT"
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "deploy/Dockerfile").read_text(), re.M)
    assert user is not None
    identity = (pod["securityContext"]["runAsUser"], pod["securityContext"]["runAsGroup"])
    assert identity == (int(user[1]), int(user[2]))
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}, "a limit of CPU delays heartbeats"
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


@every_deployment
def test_a_deployment_selects_its_pods_spreads_them_and_bounds_disruptions(name: str) -> None:
    spec = DEPLOYMENTS[name]["spec"]
    labels = {"app.kubernetes.io/name": name}
    assert spec["selector"]["matchLabels"] == labels
    assert spec["template"]["metadata"]["labels"] == labels
    for constraint in pod_of(name)["topologySpreadConstraints"]:
        assert constraint["labelSelector"]["matchLabels"] == labels
    (budget,) = [one for one in objects("PodDisruptionBudget") if one["metadata"]["name"] == name]
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": labels}}
    assert spec["replicas"] > 1, "with one replica, a budget blocks the drain of its node or means nothing"


@every_program
def test_probes_ask_what_the_programs_answer(name: str) -> None:
    container = container_of(name)
    ports = {port["name"] for port in container["ports"]}
    paths = {
        "startupProbe": "/health/live",
        "readinessProbe": "/health/ready",
        "livenessProbe": "/health/live",
    }
    health = (ROOT / "libs/servicekit/src/towpath/servicekit/runtime/health.py").read_text()
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": "admin"}
        assert f'add_get("{path}"' in health
    assert "admin" in ports, "deploy/prometheus/kubernetes.yml finds it by that name"


def test_services_differ_in_their_names_alone() -> None:
    def general(name: str) -> str:
        return "".join((MANIFESTS / f"{name}.yaml").read_text().splitlines(keepends=True)[1:]).replace(
            name, "NAME"
        )

    for name in SERVICES:
        assert general(name) == general("orders"), f"{name}.yaml: copy orders.yaml and replace the name in it"


def test_each_reference_to_a_service_leads_to_a_port_of_its_pods() -> None:
    services = {one["metadata"]["name"]: one for one in objects("Service")}
    for name, service in services.items():
        assert service["spec"]["selector"] == {"app.kubernetes.io/name": name}
        ports = {port["name"] for port in container_of(name)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    (edge,) = objects("Ingress")
    for rule in edge["spec"]["rules"]:
        for path in rule["http"]["paths"]:
            backend = path["backend"]["service"]
            ports = {port["name"] for port in services[backend["name"]]["spec"]["ports"]}
            assert backend["port"]["name"] in ports


def test_the_page_asks_the_gateways_where_the_edge_has_them() -> None:
    (edge,) = objects("Ingress")
    (rule,) = edge["spec"]["rules"]
    (host,) = edge["spec"]["tls"][0]["hosts"]
    assert rule["host"] == host
    assert f"--gateway=wss://{host}/ws" in container_of("web")["command"]
    assert common_settings()["TOWPATH_ALLOWED_ORIGINS"] == f"https://{host}"


def test_policies_allow_the_ports_of_the_programs_and_deny_the_rest() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in objects("NetworkPolicy")}
    assert policies["default-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    selected = str(policies)
    names = {*DEPLOYMENTS, "towpath", "rabbitmq"}
    for policy in policies.values():
        for expression in policy["podSelector"].get("matchExpressions", ()):
            assert set(expression["values"]) <= names
        assert set(policy["podSelector"].get("matchLabels", {}).values()) <= names
    served = {
        str(port["containerPort"])
        for name in DEPLOYMENTS
        for port in container_of(name)["ports"]
        if port["name"] != "admin"
    }
    assert [port for port in served if f"'port': {port}" not in selected] == []
    assert set(SERVICES) == set(
        policies["services-to-databases"]["podSelector"]["matchExpressions"][0]["values"]
    )


def test_keda_scales_each_service_by_its_own_queues_and_gateways_by_their_connections() -> None:
    scaled = {one["metadata"]["name"]: one["spec"] for one in objects("ScaledObject")}
    assert scaled.keys() == {"gateway", *SERVICES}
    (authentication,) = objects("TriggerAuthentication")
    for name, spec in scaled.items():
        assert spec["scaleTargetRef"] == {"name": name}
        (trigger,) = spec["triggers"]
        if name == "gateway":
            assert 'connection_active{job="towpath-gateway"}' in trigger["metadata"]["query"]
            continue
        assert spec["maxReplicaCount"] == PARTITIONS, "more replicas than queues would be idle"
        assert spec["minReplicaCount"] >= 1, "timers and the outbox need a replica"
        pattern = re.compile(trigger["metadata"]["queueName"])
        queues = [command_queue(other, number) for other in SERVICES for number in range(PARTITIONS + 2)]
        assert [queue for queue in queues if pattern.search(queue)] == [
            command_queue(name, number) for number in range(PARTITIONS)
        ]
        assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]


def test_rabbitmq_has_three_nodes_on_three_machines_with_the_accounts_of_the_programs() -> None:
    (cluster,) = objects("RabbitmqCluster")
    spec = cluster["spec"]
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["rabbitmq"]
    assert spec["image"] == compose["image"]
    assert spec["replicas"] == 3
    pod = spec["override"]["statefulSet"]["spec"]["template"]["spec"]
    (mount,) = pod["containers"][0]["volumeMounts"]
    loaded = re.search(r"^load_definitions = (\S+)$", spec["rabbitmq"]["additionalConfig"], re.M)
    assert loaded is not None
    assert str(Path(loaded[1]).parent) == mount["mountPath"]
    own = (ROOT / "deploy/rabbitmq/rabbitmq.conf").read_text()
    lines = {line for line in own.splitlines() if line and not line.startswith("#")}
    assert loaded[0] in lines
    assert lines <= set(spec["rabbitmq"]["additionalConfig"].splitlines()), (
        "the compose file's RabbitMQ has more"
    )
    rule = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][0]
    assert rule["topologyKey"] == "kubernetes.io/hostname"
