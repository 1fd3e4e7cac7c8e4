"""``towpath new service`` and ``towpath delete service``: a working service, with its test, from one word.

In this repository it is a folder of ``services/``, and lines in the lists of :mod:`~towpath.tools.service_lists`;
what ``make docs`` writes is written again. Elsewhere it is a project of its own.

Guarantees:

* Nothing is written unless all of it can be: name, place and lists are checked first; what fails later is undone.
* Deleting leaves no trace: every list, and every generated file, is as it was before, byte for byte.
* A service that has been committed is never deleted, nor are lines that were changed since they were made.
"""

import contextlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from towpath.servicekit.installed import GROUP, installed_services
from towpath.tools.service_lists import COMPOSE, Insertion, insertions
from towpath.tools.service_names import BadName, check_name, nearest
from towpath.tools.trouble import Trouble

_DOCS: Final = re.compile(r"^docs:.*\n((?:\t.*\n)+)", re.M)
_SCRIPT: Final = re.compile(r"^\t@?\$\(BIN\)/python (scripts/\w+\.py)$", re.M)
_DOCS_SECONDS: Final = 120.0


class PlaceTaken(Trouble):
    """The folder of the new service exists already."""

    status = 2


class NotWritten(Trouble):
    """Something failed while the service was made, and all of it was undone."""


class NotDeleted(Trouble):
    """The service is not deleted; the text gives the reason."""


def new(name: str, *, with_storage: bool, into: Path) -> str:
    """Make a service, and return what to say about it.

    Args:
        into: A folder of the repository, or the folder for a project of its own.

    Raises:
        BadName, PlaceTaken, OddList: Nothing was written.
        NotWritten
    """
    if not into.is_dir():
        raise PlaceTaken(f"--into {into}: there is no such folder; make it first")
    if (repository := Repository.around(into)) is not None:
        check_name(name, repository.taken(), alone=False)
        return repository.add(name, with_storage=with_storage)
    check_name(name, _installed(), alone=True)
    folder = into / name
    _must_be_free(folder)
    try:
        _write(folder, dict(_alone(name, with_storage=with_storage)))
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise NotWritten(f"{folder} cannot be written: {error.strerror or error}") from None
    app = _from_here(folder / "src" / name / "app.py")
    return f"{_from_here(folder)} is there. Next: towpath dev --with {app}"


def delete(name: str, *, yes: bool, into: Path) -> str:
    """Delete a service that :func:`new` has made in this repository, and return what to say.

    Raises:
        NotDeleted: It is not there, is committed, or ``yes`` is missing.
        OddList: Its lines in a list have changed. Nothing was deleted.
    """
    if (repository := Repository.around(into)) is None:
        raise NotDeleted(
            f"{into.absolute()} is not in the repository of Towpath; a project of its own is its folder: delete that"
        )
    return repository.remove(name, yes=yes)


@dataclass(frozen=True, slots=True)
class Repository:
    """The repository of Towpath, or a fork of it.

    Attributes:
        root: Its folder.
    """

    root: Path

    @classmethod
    def around(cls, folder: Path) -> "Repository | None":
        """The repository that holds ``folder``."""
        here = folder.absolute()
        for root in (here, *here.parents):
            if (root / "libs/servicekit/pyproject.toml").is_file() and (root / COMPOSE).is_file():
                return cls(root)
        return None

    def taken(self) -> Mapping[str, str]:
        """Names that another service or program has, and whose each is."""
        found = {path.name: f"services/{path.name} exists" for path in self.root.glob("services/*/")}
        containers = re.findall(r"^  ([a-z0-9_-]+):$", (self.root / COMPOSE).read_text(), re.M)
        return {
            **dict.fromkeys(containers, f"{COMPOSE} has a container of this name"),
            **found,
            **_installed(),
        }

    def add(self, name: str, *, with_storage: bool) -> str:
        """Make the service ``name``; see :func:`new`."""
        folder = self.root / "services" / name
        _must_be_free(folder)
        texts: dict[str, str] = {}
        for one in _insertions(name, with_storage=with_storage):
            texts[one.file] = one.into(texts.get(one.file) or self._read(one.file))
        before = {file: self._read(file) for file in texts}
        try:
            _write(folder, dict(_in_repository(name, with_storage=with_storage)))
            self._write(texts)
            self._write_docs(name)
        except (OSError, subprocess.SubprocessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            self._write(before)
            with contextlib.suppress(OSError, subprocess.SubprocessError):
                self._write_docs()
            raise NotWritten(f"services/{name} was not made: {_last_line(error)}") from None
        return (
            f"services/{name} is there, and in {', '.join(texts)} and the files of `make docs`. Next: make run, "
            f'and in another terminal: .venv/bin/towpath request {name}.greet \'{{"name": "Ben"}}\' --user ana'
        )

    def remove(self, name: str, *, yes: bool) -> str:
        """Delete the service ``name``; see :func:`delete`."""
        folder = self.root / "services" / name
        if not folder.is_dir() or not re.fullmatch(r"[a-z0-9]+", name):
            others = [path.name for path in self.root.glob("services/*/")]
            raise NotDeleted(f"there is no service {name!a} in services{nearest(name, others)}")
        if self._is_committed(name):
            raise NotDeleted(f"services/{name} is committed; revert the commit that added it")
        with_storage = (folder / "src" / "towpath" / name / "storage.py").exists()
        texts: dict[str, str] = {}
        for one in _insertions(name, with_storage=with_storage):
            texts[one.file] = one.out_of(texts.get(one.file) or self._read(one.file))
        if not yes:
            raise NotDeleted(f"this would delete services/{name} with all changes in it: say --yes")
        _uninstall(f"towpath-{name}")
        shutil.rmtree(folder)
        self._write(texts)
        try:
            self._write_docs()
        except subprocess.SubprocessError as error:
            raise NotDeleted(
                f"services/{name} is deleted, and the files of `make docs` are not written again: {_last_line(error)}"
            ) from None
        return f"services/{name} is deleted, and every list is as it was before"

    def _read(self, file: str) -> str:
        return (self.root / file).read_text(encoding="utf-8")

    def _write(self, texts: Mapping[str, str]) -> None:
        for file, text in texts.items():
            (self.root / file).write_text(text, encoding="utf-8")

    def _is_committed(self, name: str) -> bool:
        """Whether HEAD has files of the service; false for a folder that git does not know."""
        git = ["git", "-C", str(self.root), "ls-tree", "HEAD", f"services/{name}/"]
        try:
            return bool(subprocess.run(git, capture_output=True, check=True).stdout.strip())  # noqa: S603  # git, with our arguments
        except (OSError, subprocess.CalledProcessError):
            return False

    def _write_docs(self, name: str = "") -> None:
        """Write what `make docs` writes; ``name`` is a service that is not installed yet."""
        recipe = _DOCS.search(self._read("Makefile"))
        scripts = _SCRIPT.findall(recipe[1]) if recipe else []
        with tempfile.TemporaryDirectory() as installed:
            paths = [os.environ.get("PYTHONPATH", "")]
            if name:
                _metadata(Path(installed), name)
                paths = [str(self.root / "services" / name / "src"), installed, *paths]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
            for script in scripts:
                subprocess.run(  # noqa: S603  # the scripts of this repository, as its Makefile runs them
                    [sys.executable, self.root / script],
                    cwd=self.root,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=True,
                    timeout=_DOCS_SECONDS,
                )


# Contents


def _in_repository(name: str, *, with_storage: bool) -> Iterator[tuple[str, str]]:
    yield "pyproject.toml", _filled("pyproject.toml", name)
    yield from _sources(f"src/towpath/{name}", name, f"towpath-{name}", with_storage=with_storage)
    # Its own database_url: SQLite, and again PostgreSQL.
    yield f"tests/test_{name}.py", _test(name, f"towpath.{name}", "database_url", with_storage=with_storage)


def _alone(name: str, *, with_storage: bool) -> Iterator[tuple[str, str]]:
    yield "pyproject.toml", _filled("pyproject_alone.toml", name)
    yield "README.md", _filled("readme.md", name)
    yield from _sources(f"src/{name}", name, name, with_storage=with_storage)
    yield f"tests/test_{name}.py", _test(name, name, "towpath_database_url", with_storage=with_storage)


def _sources(folder: str, name: str, program: str, *, with_storage: bool) -> Iterator[tuple[str, str]]:
    kind = "_with_storage" if with_storage else ""
    yield f"{folder}/__init__.py", _filled("init.py", name)
    yield f"{folder}/__main__.py", _filled("main.py", name, program=program)
    yield f"{folder}/app.py", _filled(f"app{kind}.py", name)
    yield f"{folder}/handlers.py", _filled(f"handlers{kind}.py", name)
    if with_storage:
        yield f"{folder}/storage.py", _filled("storage.py", name)
        yield f"{folder}/migrations/0001_greetings.py", _filled("migration.py", name)


def _test(name: str, package: str, database: str, *, with_storage: bool) -> str:
    own = [f"from {package}.app import SERVICE"]
    testkit = "from towpath.testkit import ServiceUnderTest, a_command"
    if with_storage:
        own.append(f"from {package}.storage import NAMES_MAX")
        testkit += ", schema_differences"
    # One section where all are of the namespace `towpath`; else the package's own imports are the last section.
    imports = "\n".join(sorted([*own, testkit]) if package != name else [testkit, "", *own])
    template = "test_with_storage.py" if with_storage else "test.py"
    return _filled(template, name, imports=imports, database=database)


def _insertions(name: str, *, with_storage: bool) -> list[Insertion]:
    kind = "_with_storage" if with_storage else ""
    return insertions(name, _filled(f"compose{kind}.yml", name), with_storage=with_storage)


def _filled(template: str, name: str, **more: str) -> str:
    text = files("towpath.tools").joinpath("service_template", f"{template}.in").read_text(encoding="utf-8")
    return Template(text).substitute(name=name, NAME=name.upper(), **more)


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    for file, text in texts.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(text, encoding="utf-8")


# Around it


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for service in installed_services():
        domain = service.definition().domain
        found[domain] = f"the service {service.name} owns the domain {domain}"
        found[service.name] = f"{service.package} is a service of this name"
    return found


def _must_be_free(folder: Path) -> None:
    if folder.exists():
        raise PlaceTaken(f"{_from_here(folder)} exists already; take another name, or delete it first")


def _metadata(folder: Path, name: str) -> None:
    """Write the metadata of an installed distribution, by which the service is found."""
    metadata = folder / f"towpath_{name}-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: towpath-{name}\nVersion: 0.1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = towpath.{name}.app:SERVICE\n")


def _uninstall(distribution: str) -> None:
    """Remove the distribution from this Python environment, if ``make install`` has put it there."""
    try:
        importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return
    uv = Path(sys.executable).with_name("uv")
    command = (
        [uv, "pip", "uninstall", "--python"]
        if uv.exists()
        else [sys.executable, "-m", "pip", "uninstall", "-y"]
    )
    arguments = [sys.executable, distribution] if uv.exists() else [distribution]
    try:
        subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)  # noqa: S603  # our own programs
    except (OSError, subprocess.CalledProcessError) as error:
        raise NotDeleted(f"{distribution} cannot be uninstalled: {_last_line(error)}") from None


def _last_line(error: Exception) -> str:
    said = getattr(error, "stderr", None) or str(error)
    return (said.strip().splitlines() or [type(error).__name__])[-1]


def _from_here(path: Path) -> str:
    return os.path.relpath(path)


__all__ = ["BadName", "NotDeleted", "NotWritten", "PlaceTaken", "delete", "new"]
