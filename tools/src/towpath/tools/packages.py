"""Programs that Towpath needs and pip cannot bring: where they are, and how they get there.

Guarantees:

* :func:`find` changes nothing; :func:`find_or_install` installs Debian's package, and only as root.
* Installing starts no system service: Towpath runs private ones.
* A program that an environment variable names is taken, or refused; no other is taken in its place.
* What cannot be had is one :class:`ProgramMissing`, whose one line says what to do.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towpath.tools.trouble import Trouble

_POLICY = Path("/usr/sbin/policy-rc.d")
_APT_ENVIRONMENT = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}


class ProgramMissing(Trouble):
    """A program is not on this machine and could not be installed."""


@dataclass(frozen=True)
class Program:
    """A program and where it may be.

    Attributes:
        name: The displayed name.
        package: The Debian package that holds it.
        places: Commands to look for on ``PATH``, or glob patterns from ``/``; the first found wins, of
            several matches the highest version.
        variable: The environment variable that may name another one, by its path; empty where there is none.
    """

    name: str
    package: str
    places: tuple[str, ...]
    variable: str = ""

    @property
    def named(self) -> str:
        """The value of the variable; empty if it is not set."""
        return os.environ.get(self.variable, "") if self.variable else ""


# Debian's /usr/sbin/rabbitmq-server switches to the user rabbitmq; the script beneath it does not.
RABBITMQ: Final = Program(
    "RabbitMQ",
    "rabbitmq-server",
    ("/usr/lib/rabbitmq/bin/rabbitmq-server", "rabbitmq-server"),
    variable="TOWPATH_RABBITMQ_SERVER",
)
POSTGRESQL: Final = Program("PostgreSQL", "postgresql", ("/usr/lib/postgresql/*/bin/postgres", "postgres"))
NODE: Final = Program("Node.js", "nodejs", ("node", "nodejs"))
NPM: Final = Program("npm", "npm", ("npm",))
# The driver of Chromium in tests, Playwright's own Node, is linked with it.
LIBATOMIC: Final = Program(
    "libatomic", "libatomic1", ("/usr/lib/*/libatomic.so.1", "/usr/lib*/libatomic.so.1")
)
CHROMIUM: Final = Program("Chromium", "chromium", ("chromium", "chromium-browser", "google-chrome"))


def find(program: Program) -> Path | None:
    """The program's path, or ``None``.

    Raises:
        ProgramMissing: A variable names it, and names no program.
    """
    if program.named:
        path = Path(program.named).absolute()
        if not (path.is_file() and os.access(path, os.X_OK)):
            raise ProgramMissing(
                f"{program.variable}={program.named} names no program that can be run: "
                f"correct it, or unset it for the {program.name} of this machine."
            )
        return path
    for place in program.places:
        if place.startswith("/"):
            matches = sorted(Path("/").glob(place[1:]), key=_version)
            if matches:
                return matches[-1]
        elif (found := shutil.which(place)) is not None:
            return Path(found)
    return None


def find_or_install(program: Program) -> Path:
    """The program's path, after installing Debian's package where it must be and may be.

    Raises:
        ProgramMissing: It is not here, and this is not root on a Debian, or the installation failed; or a
            variable names it, and names no program.
    """
    if (path := find(program)) is not None:
        return path
    if shutil.which("apt-get") is None:
        raise ProgramMissing(
            f"{program.name} is missing: none of {', '.join(program.places)} exists; install it "
            f"(Debian's package is {program.package}) and put it on PATH."
        )
    if os.geteuid() != 0:
        raise ProgramMissing(f"{program.name} is missing: run `sudo apt-get install {program.package}`.")
    _install(program)
    if (path := find(program)) is not None:
        return path
    raise ProgramMissing(
        f"{program.name} is missing: the package {program.package} was installed, "
        f"yet none of {', '.join(program.places)} exists."
    )


def _install(program: Program) -> None:
    with _no_service_started():
        for arguments in (["update"], ["install", "--yes", "--no-install-recommends", program.package]):
            apt = subprocess.run(  # noqa: S603  # a constant table names the package
                ["apt-get", "--quiet", "-o", "DPkg::Lock::Timeout=300", *arguments],  # noqa: S607
                env={**os.environ, **_APT_ENVIRONMENT},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
        if apt.returncode != 0:
            last = apt.stdout.strip().splitlines()[-1:] or ["it printed nothing"]
            raise ProgramMissing(
                f"{program.name} is missing: `apt-get install {program.package}` "
                f"ended with status {apt.returncode}: {last[0]}"
            )


@contextlib.contextmanager
def _no_service_started() -> Iterator[None]:
    # https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt: 101 means "not allowed".
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)


def _version(path: Path) -> list[int]:
    return [int(part) for part in path.parts if part.isdecimal()]
