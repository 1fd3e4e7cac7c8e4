"""The commands of docs/operations/compose.md, run on an engine as the page shows them."""

import asyncio
import os
import shutil
from typing import Final

from ..snippets import blocks_of, section
from .compose import ROOT, Compose, docker, remove_image, run

PAGE: Final = (ROOT / "docs/operations/compose.md").read_text()
#: Seconds for one block: it may build an image and restart every container.
_BLOCK_SECONDS: Final = 600
#: ``docker`` for the shell: ``docker compose`` is that of the project, an image is built from the repository.
_DOCKER: Final = """#!/bin/sh
case $1 in
    compose) shift; exec {compose} "$@" ;;
    build) cd '{root}' ;;
esac
exec '{docker}' "$@"
"""


class Reader:
    """Pastes blocks of the page, in a folder with .env and scripts/env.

    Args:
        compose: The project that the commands are for.
        image: The name of its image, which ``docker build`` of the page makes.
    """

    def __init__(self, compose: Compose, image: str) -> None:
        self._compose = compose
        self._image = image
        self._pasted = 0
        self._programs = compose.folder / "programs"
        self._programs.mkdir()
        (self._function,) = (block.text for block in blocks_of(PAGE[: PAGE.index("\n## ")], "sh"))

    def blocks(self, title: str, language: str = "sh") -> list[str]:
        """The blocks below a heading."""
        return [block.text for block in blocks_of(section(PAGE, title), language)]

    async def paste(self, script: str) -> str:
        """Run it to its end, and return its standard output.

        Raises:
            ComposeFailed: A command failed.
        """
        words = " ".join(f"'{word}'" for word in self._compose.words)
        program = self._programs / "docker"
        program.write_text(_DOCKER.format(compose=words, root=ROOT, docker=shutil.which("docker")))
        program.chmod(0o755)
        self._pasted += 1
        # The label makes it another image, as a new version is.
        built = f"--tag {self._image} --network=host --label=pasted={self._pasted} "
        return await asyncio.to_thread(
            run,
            *("bash", "-euo", "pipefail", "-c", self._function + script.replace("--tag towpath ", built)),
            timeout=_BLOCK_SECONDS,
            folder=self._compose.folder,
            variables={**self._compose.variables, "PATH": f"{self._programs}:{os.environ['PATH']}"},
        )


def remove_images(name: str) -> None:
    """Remove an image, and those that ``docker build`` of the page made under its name."""
    made = docker("image", "ls", "--quiet", "--filter=label=pasted", "--filter=dangling=true").split()
    for one in (name, *made):
        remove_image(one)
