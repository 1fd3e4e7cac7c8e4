"""Needs: programs and files that a judge uses on this machine.

Each check returns the name of what is missing and how to get it, or ``None``.
"""

import os
import shutil
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: Returns what is missing, as a sentence for the operator; ``None`` if it is here.
Need = Callable[[], str | None]


def distribution(name: str) -> Need:
    """A Python distribution of requirements.lock."""

    def missing() -> str | None:
        try:
            version(name)
        except PackageNotFoundError:
            return f"the Python package {name} is not installed: run `make install`"
        return None

    return missing


def program(name: str, remedy: str) -> Need:
    """A program on PATH."""
    return lambda: None if shutil.which(name) else f"{name} is not on PATH: {remedy}"


def file(path: str, remedy: str) -> Need:
    """A file of this checkout that another command makes."""
    return lambda: None if (ROOT / path).exists() else f"{path} is not there: {remedy}"


def clone(variable: str, repository: str, *holds: str) -> Need:
    """A clone of a repository that no package registry has; the environment variable names its folder."""

    def missing() -> str | None:
        folder = os.environ.get(variable, "")
        if not folder:
            return f"not here: set {variable} to a clone of {repository}"
        absent = [name for name in holds if not (Path(folder) / name).exists()]
        if absent:
            return f"{variable}={folder} has no {absent[0]}: set it to a clone of {repository}"
        return None

    return missing
