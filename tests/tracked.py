"""The files of the repository, without those that a run leaves beside them.

Each process of ``pytest -n`` must collect the same tests, also one that takes the place of a process that crashed. So
what tests are made from may not change while they run.
"""

import subprocess
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent


def tracked(*patterns: str) -> list[Path]:
    """The files that Git tracks and that are there, sorted.

    Args:
        patterns: As for ``git ls-files``; ``*.md`` means all folders.
    """
    listed = subprocess.run(
        ["git", "ls-files", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return sorted(path for name in listed.stdout.splitlines() if (path := ROOT / name).exists())
