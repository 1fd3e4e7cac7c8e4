"""Finding programs and installing packages; a small ``apt-get`` of our own replaces Debian's."""

import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from towpath.tools import packages
from towpath.tools.packages import RABBITMQ, Program, ProgramMissing, find, find_or_install

LOOM = Program("Loom", "loom-weaver", ("loom",))


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder on PATH; empty."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(packages, "_POLICY", tmp_path / "policy-rc.d")
    return folder


def a_command(folder: Path, name: str, script: str = "") -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def an_apt(folder: Path, script: str) -> None:
    """An ``apt-get`` whose ``install`` runs ``script``; ``$package`` is the last argument."""
    a_command(folder, "apt-get", f'for package; do :; done\ncase "$*" in *update*) exit 0 ;; esac\n{script}')


def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def test_a_command_on_path_is_found(commands: Path) -> None:
    assert find(LOOM) is None
    loom = a_command(commands, "loom")
    assert find(LOOM) == loom
    assert find_or_install(LOOM) == loom


def test_the_highest_of_several_versions_is_found(tmp_path: Path, commands: Path) -> None:
    for version in ("9", "15", "14"):
        folder = tmp_path / "lib" / version / "bin"
        folder.mkdir(parents=True)
        a_command(folder, "loom")
    a_command(commands, "loom")
    program = Program("Loom", "loom-weaver", (f"{tmp_path}/lib/*/bin/loom", "loom"))
    assert find(program) == tmp_path / "lib/15/bin/loom"


def test_the_program_of_the_variable_has_priority(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = a_command(commands, "loom")
    other = a_command(tmp_path, "loom-4")
    named = replace(LOOM, variable="LOOM")
    assert find(named) == ours
    monkeypatch.setenv("LOOM", "")
    assert find(named) == ours
    monkeypatch.setenv("LOOM", str(other))
    assert find(named) == find_or_install(named) == other
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOOM", "loom-4")
    assert find(named) == other  # wherever it is started


@pytest.mark.parametrize("kind", ["nothing", "a folder", "a file that cannot be run"])
def test_a_variable_that_names_no_program_is_reported_without_a_fallback(
    kind: str, commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loom-4"
    if kind == "a folder":
        path.mkdir()
    elif kind != "nothing":
        path.touch(mode=0o644)
    a_command(commands, "loom")
    an_apt(commands, "exit 0")
    as_root(monkeypatch)
    monkeypatch.setenv("LOOM", str(path))
    for look in (find, find_or_install):
        with pytest.raises(ProgramMissing) as missing:
            look(replace(LOOM, variable="LOOM"))
        assert str(missing.value) == (
            f"LOOM={path} names no program that can be run: correct it, or unset it for the Loom of this machine."
        )


def test_the_variable_for_rabbitmq_is_the_documented_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_RABBITMQ_SERVER", sys.executable)
    assert find(RABBITMQ) == Path(sys.executable)


def test_without_apt_the_line_names_program_package_and_path(commands: Path) -> None:
    with pytest.raises(ProgramMissing) as missing:
        find_or_install(LOOM)
    assert str(missing.value) == (
        "Loom is missing: none of loom exists; "
        "install it (Debian's package is loom-weaver) and put it on PATH."
    )


def test_without_root_the_line_names_the_command(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_apt(commands, "exit 0")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ProgramMissing) as missing:
        find_or_install(LOOM)
    assert str(missing.value) == "Loom is missing: run `sudo apt-get install loom-weaver`."


def test_root_gets_the_package_installed_and_no_service_started(
    commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tmp_path / "policy-rc.d"
    an_apt(
        commands,
        f'[ "$package" = loom-weaver ] || exit 1\n'
        f'{policy} loom start; [ "$?" = 101 ] || exit 1\n'
        f'echo "#!/bin/sh" > {commands}/loom; /bin/chmod +x {commands}/loom',
    )
    as_root(monkeypatch)
    assert find_or_install(LOOM) == commands / "loom"
    assert not policy.exists()


def test_an_existing_policy_is_kept(commands: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n")
    an_apt(commands, f'echo "#!/bin/sh" > {commands}/loom; /bin/chmod +x {commands}/loom')
    as_root(monkeypatch)
    find_or_install(LOOM)
    assert policy.read_text() == "#!/bin/sh\nexit 104\n"


def test_a_failed_installation_is_one_line_with_its_reason(
    commands: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    an_apt(commands, 'echo "Reading package lists..."; echo "E: Unable to locate package $package"; exit 100')
    as_root(monkeypatch)
    with pytest.raises(ProgramMissing) as missing:
        find_or_install(LOOM)
    assert str(missing.value) == (
        "Loom is missing: `apt-get install loom-weaver` ended with status 100: "
        "E: Unable to locate package loom-weaver"
    )


def test_a_package_without_the_program_is_reported(commands: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    an_apt(commands, "exit 0")
    as_root(monkeypatch)
    with pytest.raises(ProgramMissing, match="loom-weaver was installed, yet none of loom exists"):
        find_or_install(LOOM)
