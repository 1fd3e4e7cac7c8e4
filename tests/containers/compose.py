"""docker-compose.yml under a project name of its own, with other ports and secrets than an installation here has."""

import json
import os
import resource
import secrets
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from towpath.testkit.containers import docker_answers
from towpath.testkit.processes import free_port

ROOT: Final = Path(__file__).parent.parent.parent
_COMPOSE: Final = Path(sys.executable).parent / "docker-compose"
#: Seconds in which all containers must be healthy.
_UP_SECONDS: Final = 180
_BUILD_SECONDS: Final = 1_000
_COMMAND_SECONDS: Final = 120
#: Ports that docker-compose.yml publishes: gateways, page, ingress, Prometheus.
GATEWAY, PAGE, INGRESS, PROMETHEUS = 8080, 8000, 8090, 9090


class ComposeFailed(Exception):
    """A command of the engine failed; the text has its output."""


def run(
    *command: str | Path,
    timeout: float = _COMMAND_SECONDS,
    folder: Path = ROOT,
    variables: Mapping[str, str] | None = None,
) -> str:
    """The output of a command in a folder.

    Raises:
        ComposeFailed: Its status is not 0, or the time is over.
    """
    try:
        ran = subprocess.run(
            [*map(str, command)],
            cwd=folder,
            env={**os.environ, **(variables or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ComposeFailed(f"{command}: no end after {timeout:g} s") from None
    if ran.returncode != 0:
        raise ComposeFailed(f"{command}: status {ran.returncode}\n{ran.stdout}\n{ran.stderr}")
    return ran.stdout


def docker(*arguments: str, timeout: float = _COMMAND_SECONDS) -> str:
    """The output of ``docker``."""
    return run("docker", *arguments, timeout=timeout)


def build_image(name: str, *options: str) -> None:
    """Build deploy/Dockerfile.

    The network of the host: package registries that a machine reaches by its own settings are reached alike.

    Raises:
        ComposeFailed: No engine answers, or the build fails.
    """
    if not docker_answers():
        raise ComposeFailed(
            "No container engine answers `docker info`: start one, or name it in DOCKER_HOST. These tests need one."
        )
    docker(
        *("build", "--quiet", "--network=host", "--file=deploy/Dockerfile", f"--tag={name}", *options, "."),
        timeout=_BUILD_SECONDS,
    )


def remove_image(name: str) -> None:
    """Remove it; containers of it must be gone."""
    docker("image", "rm", "--force", name)


class Compose:
    """One project.

    Attributes:
        folder: Has its .env, scripts/env and deploy/, and the file that overrides docker-compose.yml. One of the
            name ``docker-compose.override.yml`` is used as well.

    Args:
        image: The image of Towpath's programs.
    """

    def __init__(self, image: str, folder: Path) -> None:
        self.project = f"towpath-test-{secrets.token_hex(4)}"
        self.folder = folder
        declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
        self._ports = {inside: free_port() for service in declared.values() for inside in _inside(service)}
        _write_secrets(folder)
        self._override = folder / "override.yml"
        self._override.write_text(_overriding(declared, image, self._ports))

    def __enter__(self) -> "Compose":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    @property
    def secrets(self) -> dict[str, str]:
        """The variables of its .env."""
        lines: Sequence[str] = (self.folder / ".env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    @property
    def words(self) -> list[str]:
        """``docker compose`` for this project."""
        files = (ROOT / "docker-compose.yml", self._override, self.folder / "docker-compose.override.yml")
        project = (f"--project-name={self.project}", f"--project-directory={ROOT}")
        read = (f"--file={file}" for file in files if file.exists())
        return [str(_COMPOSE), *project, *read, f"--env-file={self.folder / '.env'}"]

    @property
    def variables(self) -> dict[str, str]:
        """Variables of docker-compose.yml that are not in its .env."""
        page = f"http://{self.address(PAGE)}"
        return {"GATEWAY_URL": f"ws://{self.address(GATEWAY)}/ws", "TOWPATH_ALLOWED_ORIGINS": page}

    def command(self, *arguments: str, timeout: float = _COMMAND_SECONDS) -> str:
        """The output of ``docker compose`` for this project."""
        return run(*self.words, *arguments, timeout=timeout, variables=self.variables)

    def up(self, *options: str) -> None:
        """Start what does not run, and wait until all of it is healthy."""
        self.command(
            *("up", "--detach", "--wait", f"--wait-timeout={_UP_SECONDS}", "--no-build", *options),
            timeout=_UP_SECONDS + _COMMAND_SECONDS,
        )

    def down(self) -> None:
        """End it, and remove its containers, networks and volumes."""
        self.command("--profile=*", "down", "--volumes", "--timeout=45", timeout=2 * _COMMAND_SECONDS)

    def address(self, port: int) -> str:
        """``host:port`` on this machine of a port that docker-compose.yml publishes."""
        return f"127.0.0.1:{self._ports[port]}"

    def containers(self, *services: str) -> list[dict[str, Any]]:
        """The engine's description of each running container of these services, or of all."""
        ids = self.command("ps", "--quiet", *services).split()
        described: list[dict[str, Any]] = json.loads(docker("inspect", *ids)) if ids else []
        return described

    def services(self) -> list[str]:
        """Those that are running."""
        return self.command("ps", "--services").split()

    def execute(self, service: str, *command: str) -> str:
        """The output of a command in a running container."""
        return self.command("exec", "--no-TTY", service, *command)

    def restart(self, service: str) -> None:
        """Stop a service as an upgrade does, and start it again; it need not be healthy yet."""
        self.command("restart", service)

    def scale(self, **replicas: int) -> None:
        """Start or end containers of services until each has so many, and wait until they are healthy."""
        self.up("--no-recreate", *(f"--scale={name}={count}" for name, count in replicas.items()))

    def logs(self) -> str:
        """The last lines of each container."""
        try:
            return self.command("logs", "--tail=60", "--no-color")
        except ComposeFailed as failed:
            return str(failed)

    def leftovers(self) -> dict[str, list[str]]:
        """The containers, volumes and networks of the project that the engine has."""
        label = f"--filter=label=com.docker.compose.project={self.project}"
        found = {
            "containers": docker("ps", "--all", "--quiet", label).split(),
            "volumes": docker("volume", "ls", "--quiet", label).split(),
            "networks": docker("network", "ls", "--quiet", label).split(),
        }
        return {kind: names for kind, names in found.items() if names}


def _write_secrets(folder: Path) -> None:
    """The .env that `make up` writes, in another folder."""
    for name in ("scripts/env", "docker-compose.yml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "deploy").symlink_to(ROOT / "deploy")
    run(folder / "scripts/env")


def _inside(service: Mapping[str, Any]) -> list[int]:
    """The ports of a service that are published, as they are inside."""
    return [int(str(port).rpartition(":")[2]) for port in service.get("ports", ())]


def _overriding(declared: Mapping[str, Mapping[str, Any]], image: str, ports: Mapping[int, int]) -> str:
    lines = []
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # no container may have more than its engine
    for name, service in declared.items():
        changed = []
        if service.get("image") == "towpath":
            changed.append(f'"image": {json.dumps(image)}')
        if service.get("ulimits", {}).get("nofile", 0) > most > 0:
            changed.append(f'"ulimits": {{"nofile": {most}}}')
        if inside := _inside(service):
            # docker compose adds lists of ports to each other, unless the tag asks to replace them.
            published = json.dumps([f"127.0.0.1:{ports[port]}:{port}" for port in inside])
            changed.append(f'"ports": !override {published}')
        lines.append(f"  {name}: {{{', '.join(changed)}}}\n")
    return "services:\n" + "".join(lines)
