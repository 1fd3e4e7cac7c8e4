"""Whether containers can be had here."""

import functools
import shutil
import subprocess
from importlib.util import find_spec


@functools.cache
def docker_answers() -> bool:
    """Whether a Docker engine is running and lets us use it, and ``testcontainers`` is installed; asked once."""
    docker = shutil.which("docker")
    if docker is None or find_spec("testcontainers") is None:
        return False
    try:
        asked = subprocess.run([docker, "info"], capture_output=True, timeout=5, check=False)
    except subprocess.TimeoutExpired:
        return False
    return asked.returncode == 0
