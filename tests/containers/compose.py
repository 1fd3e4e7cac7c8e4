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
#: The ports that the proxy has in docker-compose.yml: gateways, page, ingress.
GATEWAY, PAGE, INGRESS = 8080, 8000, 8090


class ComposeFailed(Exception):
    """A command of the engine failed; the text has its output."""


def run(*command: str | Path, timeout: float = _COMMAND_SECONDS, **variables: str) -> str:
    """The output of a command.

    Raises:
        ComposeFailed: Its status is not 0, or the time is over.
    """
    try:
        ran = subprocess.run(
            [*map(str, command)],
            cwd=ROOT,
            env={**os.environ, **variables},
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
        secrets: The variables of its .env.

    Args:
        image: The image of Towpath's programs.
        folder: For its .env and the file that overrides docker-compose.yml.
    """

    def __init__(self, image: str, folder: Path) -> None:
        self.project = f"towpath-test-{secrets.token_hex(4)}"
        self._folder = folder
        self._ports = {inside: free_port() for inside in (GATEWAY, PAGE, INGRESS)}
        self.secrets = _write_secrets(folder)
        self._override = folder / "override.yml"
        self._override.write_text(_overriding(image, self._ports))

    def __enter__(self) -> "Compose":
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    def command(self, *arguments: str, timeout: float = _COMMAND_SECONDS) -> str:
        """The output of ``docker compose`` for this project."""
        files = (f"--file={ROOT / 'docker-compose.yml'}", f"--file={self._override}")
        return run(
            *(_COMPOSE, f"--project-name={self.project}", f"--project-directory={ROOT}", *files),
            *(f"--env-file={self._folder / '.env'}", *arguments),
            timeout=timeout,
            GATEWAY_URL=f"ws://{self.address(GATEWAY)}/ws",
            TOWPATH_ALLOWED_ORIGINS=f"http://{self.address(PAGE)}",
        )

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
        """``host:port`` of one of the proxy's ports on this machine."""
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


def _write_secrets(folder: Path) -> dict[str, str]:
    """The .env that `make up` writes, in another folder."""
    for name in ("scripts/env", "docker-compose.yml"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    run(folder / "scripts/env")
    lines: Sequence[str] = (folder / ".env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def _overriding(image: str, ports: Mapping[int, int]) -> str:
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    changed: dict[str, dict[str, Any]] = {}
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # no container may have more than its engine
    for name, service in declared.items():
        changed[name] = {"image": image} if service.get("image") == "towpath" else {}
        if service.get("ulimits", {}).get("nofile", 0) > most > 0:
            changed[name]["ulimits"] = {"nofile": most}
    published = [f"127.0.0.1:{outside}:{inside}" for inside, outside in ports.items()]
    proxy = yaml.safe_dump({"services": {"proxy": changed.pop("proxy")}})
    # docker compose adds lists of ports to each other, unless the tag asks to replace them.
    proxy = (
        proxy.rstrip().replace("proxy: {}", "proxy:") + f"\n    ports: !override {json.dumps(published)}\n"
    )
    return proxy + "".join(f"  {name}: {json.dumps(change)}\n" for name, change in changed.items() if change)
