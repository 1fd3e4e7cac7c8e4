"""A small disk that a test may fill."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CHUNK: Final = b"\0" * 4096


class SmallDisk:
    """A file system of a few megabytes, in memory.

    Attributes:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    @staticmethod
    def may_be_mounted() -> bool:
        """Whether this process may mount one."""
        return os.geteuid() == 0

    @classmethod
    @contextlib.contextmanager
    def mounted(cls, folder: Path, *, megabytes: int) -> Iterator["SmallDisk"]:
        """From entry to exit."""
        folder.mkdir()
        options = f"size={megabytes}m,mode=0777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, timeout=10)
        try:
            yield cls(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True, timeout=10)

    def fill(self) -> None:
        """Leave not one byte."""
        with self._ballast.open("ab", buffering=0) as ballast, contextlib.suppress(OSError):
            while True:
                ballast.write(_CHUNK)

    def empty(self) -> None:
        """Give the room back."""
        self._ballast.unlink()
