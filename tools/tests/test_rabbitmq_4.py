"""``scripts/rabbitmq-4`` on machines of all kinds, with stand-ins for what it calls; and what it leaves, for real."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "rabbitmq-4"
MIRROR = "http://mirror.invalid/debian/"

#: A fake RabbitMQ: it waits for a line, then prints its environment.
SERVER = """#!/bin/sh
echo started
read line
echo "process $$ is $0 and read $line"
[ ! -e /usr/another ] || echo "in another /usr"
for argument; do echo "<$argument>"; done
"""


class Machine:
    """A PATH with nothing but what is put there, and a folder to be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "rabbitmq 4"
        self.debian = a_small_debian(folder / "debian")
        self.commands = folder / "bin"
        self.commands.mkdir()
        for command in ("cat", "chmod", "cp", "head", "ln", "ls", "mkdir", "mv", "rm", "tail"):
            found = shutil.which(command)
            assert found is not None
            (self.commands / command).symlink_to(found)
        self.has("id", "echo 0")
        self.has("apt-get", f'[ "$1" = indextargets ] || exit 1; echo {MIRROR}')
        self.has("unshare", 'while [ "${1#-}" != "$1" ]; do shift; done; exec "$@"')
        self.has("debootstrap", f'[ "$5" = {MIRROR} ] || exit 1; cp -R {self.debian}/. "$4"')

    def has(self, command: str, script: str) -> None:
        path = self.commands / command
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def lacks(self, command: str) -> None:
        (self.commands / command).unlink()

    def install(self, *arguments: object) -> tuple[int, str]:
        ran = subprocess.run(
            ["/bin/sh", SCRIPT, *map(str, arguments or (self.folder,))],
            env={"PATH": str(self.commands)},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return ran.returncode, ran.stdout + ran.stderr


def a_small_debian(folder: Path) -> Path:
    """A ``/usr`` with a shell, what that is linked with, and a ``rabbitmq-server``."""
    linked = subprocess.run(["ldd", "/bin/sh"], capture_output=True, text=True, check=True).stdout
    for path in ["/bin/sh", *re.findall(r"/\S+", linked)]:
        there = folder / "usr" / path.removeprefix("/").removeprefix("usr/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, there)
    server = folder / "usr/lib/rabbitmq/bin/rabbitmq-server"
    server.parent.mkdir(parents=True)
    server.write_text(SERVER)
    server.chmod(0o755)
    shutil.copy(server, server.with_name("rabbitmqctl"))
    (folder / "usr/another").touch()
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def told(machine: Machine) -> str:
    return f"Towpath: RabbitMQ 4 is there: export TOWPATH_RABBITMQ_SERVER={machine.folder}/rabbitmq-server\n"


@pytest.mark.parametrize("program", ["rabbitmq-server", "rabbitmqctl"])
def test_the_started_program_is_the_real_one_in_another_usr_and_leaves_no_mount(
    program: str, machine: Machine, tmp_path: Path
) -> None:
    assert machine.install()[0] == 0
    arguments = ["-eval", "one line,\nand 'another' \"$1\"", ""]
    with subprocess.Popen(
        [machine.folder / program, *arguments],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
        said, _ = process.communicate("hello\n", timeout=60)
    assert said == (
        f"process {process.pid} is /usr/lib/rabbitmq/bin/{program} and read hello\nin another /usr\n"
        + "".join(f"<{argument}>\n" for argument in arguments)
    )
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    assert not Path("/usr/another").exists()


def test_a_repeated_installation_changes_nothing_and_needs_nothing(machine: Machine) -> None:
    status, output = machine.install()
    assert status == 0
    assert output.endswith(f"which takes about a minute\n{told(machine)}")
    assert {path.name for path in machine.folder.iterdir()} == {"rabbitmq-server", "rabbitmqctl", "usr"}
    for command in ("apt-get", "debootstrap", "id"):
        machine.lacks(command)
    before = (machine.folder / "rabbitmq-server").stat()
    assert machine.install() == (0, told(machine))
    assert (machine.folder / "rabbitmq-server").stat() == before


def test_debootstrap_is_installed_where_it_is_missing(machine: Machine) -> None:
    debootstrap = machine.commands / "debootstrap"
    kept = debootstrap.rename(machine.commands / "kept")
    machine.has(
        "apt-get",
        f'case "$*" in indextargets*) echo {MIRROR} ;; *install*debootstrap) cp {kept} {debootstrap} ;; esac',
    )
    assert machine.install()[0] == 0
    assert (machine.folder / "rabbitmq-server").exists()


def test_a_failed_or_interrupted_installation_is_reported_in_one_line_and_repeated(machine: Machine) -> None:
    works = (machine.commands / "debootstrap").read_text()
    machine.has("debootstrap", 'mkdir "$4/usr"; echo "E: no route"; exit 1')
    status, output = machine.install()
    assert status == 1
    assert output.splitlines()[-1] == (
        f"Towpath: debootstrap failed, and {machine.folder}/log ends with: E: no route"
    )
    machine.has("debootstrap", works.removeprefix("#!/bin/sh\n"))
    assert machine.install()[1].endswith(told(machine))
    assert {path.name for path in machine.folder.iterdir()} == {"rabbitmq-server", "rabbitmqctl", "usr"}


def test_a_folder_with_other_contents_is_not_changed(machine: Machine) -> None:
    (machine.folder / "usr").mkdir(parents=True)
    assert machine.install() == (
        1,
        f"Towpath: {machine.folder} holds something else: name a folder that is new or empty.\n",
    )
    assert [path.name for path in machine.folder.iterdir()] == ["usr"]


def test_without_a_folder(machine: Machine) -> None:
    line = "Towpath: where is RabbitMQ 4 to be? For example: sudo scripts/rabbitmq-4 /opt/rabbitmq-4\n"
    assert machine.install("") == (1, line)
    assert machine.install("--help") == (1, line)


def test_without_root(machine: Machine) -> None:
    machine.has("id", "echo 1000")
    assert machine.install() == (
        1,
        f"Towpath: this needs root: sudo scripts/rabbitmq-4 {machine.folder}\n",
    )


def test_without_debian(machine: Machine) -> None:
    machine.lacks("apt-get")
    assert machine.install() == (
        1,
        "Towpath: this needs Debian's packages, and this machine has no apt-get.\n",
    )


def test_without_a_mirror(machine: Machine) -> None:
    machine.has("apt-get", "exit 0")
    assert machine.install() == (
        1,
        "Towpath: apt knows no mirror of Debian: name one in /etc/apt/sources.list.\n",
    )
