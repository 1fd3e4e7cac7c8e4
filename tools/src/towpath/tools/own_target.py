"""A service that ``towpath dev --with`` names: a module, ``module:SERVICE``, or a path to a file.

Guarantee: finding it runs none of its code, so that an error in it is the error of its own process.
"""

import importlib.machinery
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from towpath.protocol.names import shown
from towpath.tools.trouble import Trouble

_SKIPPED: Final = frozenset({"__pycache__", "node_modules"})
#: Files that are watched at most: looking at all of them takes milliseconds.
FILES_MAX: Final = 2_000

#: Modification time, size and number of each file.
Snapshot = Mapping[Path, tuple[int, int, int]]


class BadTarget(Trouble):
    """The service that ``--with`` names cannot be found."""

    status = 2

    def __init__(self, given: str, problem: str) -> None:
        super().__init__(f"--with {shown(given)}: {problem}")


@dataclass(frozen=True, slots=True)
class Target:
    """See the module.

    Attributes:
        name: Its name for messages and its log, until its own is known.
        module: The module that defines the service.
        attribute: The name of the service there; empty for the only one.
        file: The file of the module.
        path: The folder to import from; ``None`` where the module is found without one.
    """

    name: str
    module: str
    attribute: str
    file: Path
    path: Path | None

    @property
    def arguments(self) -> list[str]:
        """Those of :mod:`towpath.tools.own_program`."""
        return [self.module, self.attribute, "" if self.path is None else str(self.path)]

    def snapshot(self) -> Snapshot:
        """The state of its Python files: of its outermost package, or those beside a file without one."""
        found: dict[Path, tuple[int, int, int]] = {}
        for path in self._files():
            try:
                stat = path.stat()
            except OSError:  # just deleted
                continue
            found[path] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
            if len(found) == FILES_MAX:
                break
        return found

    def _files(self) -> Iterator[Path]:
        folder = self.file.parent
        if not _is_package(folder):
            yield from sorted(folder.glob("*.py"))
            return
        for root, folders, files in os.walk(_top(self.file) / self.module_parts[0]):
            folders[:] = sorted(one for one in folders if one not in _SKIPPED and not one.startswith("."))
            yield from (Path(root, file) for file in sorted(files) if file.endswith(".py"))

    @property
    def module_parts(self) -> tuple[str, ...]:
        """The packages around the file, and its own name, as far as folders with ``__init__.py`` go."""
        return self.file.relative_to(_top(self.file)).with_suffix("").parts


def find(given: str) -> Target:
    """The service that ``given`` names, seen from the current folder.

    Raises:
        BadTarget
    """
    where, colon, attribute = given.rpartition(":")
    if not colon:
        where, attribute = given, ""
    elif not attribute.isidentifier():
        raise BadTarget(given, "write module:SERVICE, such as mill.app:MILL")
    if where.endswith(".py") or os.sep in where:
        return _in_file(given, where, attribute)
    return _in_module(given, where, attribute)


def _in_file(given: str, where: str, attribute: str) -> Target:
    file = Path(os.path.abspath(where))  # noqa: PTH100  # without its `..`; links stay
    if file.is_dir():
        file /= "app.py"
    if not file.is_file() or file.suffix != ".py":
        raise BadTarget(given, "there is no such Python file; name the one that defines the Service")
    parts = file.relative_to(_top(file)).with_suffix("").parts
    if parts[-1].startswith("__"):
        raise BadTarget(given, "name the file that defines the Service, such as app.py beside it")
    if not all(part.isidentifier() for part in parts):
        raise BadTarget(given, "cannot be imported: name file and folders with letters, digits and _")
    return Target(_name(".".join(parts)), ".".join(parts), attribute, file, _top(file))


def _in_module(given: str, module: str, attribute: str) -> Target:
    parts = module.split(".")
    if not all(part.isidentifier() for part in parts):
        raise BadTarget(given, "is neither a module, such as mill.app, nor a path to a file")
    file = locate(module)
    if file is None:
        raise BadTarget(
            given,
            f"there is no module {module} below {Path.cwd()} or in this Python environment; "
            "name its file: --with path/to/app.py",
        )
    if file.name == "__init__.py" and not attribute and (file.parent / "app.py").is_file():
        module, file = f"{module}.app", file.parent / "app.py"
    return Target(_name(module), module, attribute, file, None)


def locate(module: str) -> Path | None:
    """The file of a module that could be imported from the current folder; nothing is imported for it."""
    folders = [str(Path.cwd()), *sys.path]
    *packages, last = module.split(".")
    for package in packages:
        spec = importlib.machinery.PathFinder.find_spec(package, folders)
        if spec is None or spec.submodule_search_locations is None:
            return None
        folders = list(spec.submodule_search_locations)
    spec = importlib.machinery.PathFinder.find_spec(last, folders)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).absolute()


def _name(module: str) -> str:
    return module.removesuffix(".app").rpartition(".")[2]


def _is_package(folder: Path) -> bool:
    return (folder / "__init__.py").is_file()


def _top(file: Path) -> Path:
    """The folder that holds the outermost package of a file, or the file."""
    folder = file.parent
    while _is_package(folder):
        folder = folder.parent
    return folder
