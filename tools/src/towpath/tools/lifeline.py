"""``python -m towpath.tools.lifeline towpath.chat``: a program that never outlives its parent process.

Standard input is a pipe whose other end only the starter holds. One line comes through it: the settings, a JSON
object of environment variables. The program's modules are loaded before that, so that it starts at once when, for
example, the broker it needs is up. Then nothing comes any more: the end of the pipe is the end of the starter,
however that came about, and the program stops as on SIGTERM.
"""

import importlib
import json
import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

PATIENCE_SECONDS: Final = 5.0


def main(module: str) -> None:
    importlib.import_module(f"{module}.app")
    if begin():
        sys.argv[1:] = []
        runpy.run_module(module, run_name="__main__", alter_sys=True)


def begin() -> bool:
    """Wait for the settings, put them into the environment, and end with the starter from now on.

    Returns:
        False if the starter has ended instead.
    """
    settings = _read_line()
    if not settings:
        return False
    os.environ.update(json.loads(settings))
    threading.Thread(target=_end_with_starter, name="lifeline", daemon=True).start()
    return True


def _read_line() -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        if not (part := os.read(0, 65536)):
            return b""
        line += part
    return line


def _end_with_starter() -> None:
    # The descriptor, not sys.stdin: a thread that holds that one's lock aborts the interpreter at its end.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
