"""``make judges``: runs every judge, compares its outcomes with its list, and writes docs/judges.md.

Guarantees: a judge that cannot run is named with what it needs, and fails the run; all together end within
:data:`LIMIT` seconds, each within its own time limit, with every process that it started; the page is written only by
a run of all judges that could all run.

A judge is a program that is called with ``--output FILE`` and writes ``{"cases": {"<case>": "<outcome>"}}`` there;
``ok`` is the outcome of a case that passed. Its expected deviations are in ``judges/expected/<name>.toml``.
"""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from judges import page
from judges.histories import missing_histories
from judges.judge import Judge, Outcome
from judges.needs import ROOT, clone, distribution, file, program
from judges.verdict import Expected, problems

#: Seconds for all judges together.
LIMIT: Final = 180.0
#: Judges that run at the same time.
_AT_ONCE: Final = 2
_PAGE: Final = ROOT / "docs/judges.md"
_EXPECTED: Final = ROOT / "judges/expected"
_RESULTS: Final = ROOT / "test-results/judges"
#: Bytes of a judge's last output that a failure shows.
_LAST_OUTPUT: Final = 2_000


_KOSOKU: Final = distribution("kosoku")
_NODE_PACKAGES: Final = file("clients/node_modules/tsx", "run `make page`")
_PARSER: Final = file("judges/asyncapi/node_modules/@asyncapi/parser", "run `make judges`")

#: The longest first, so that the others run beside it.
JUDGES: Final = (
    Judge(
        "jwt_forgeries",
        "jwt_tool: forged tokens at the gateway",
        "clone",
        (clone("JWT_TOOL", "github.com/ticarpi/jwt_tool", "jwt_tool.py"),),
        (sys.executable, "-m", "judges.jwt_forgeries"),
        120.0,
    ),
    Judge(
        "autobahn_javascript",
        "Autobahn: the JavaScript client",
        "registry",
        (_KOSOKU, _NODE_PACKAGES),
        (sys.executable, "-m", "judges.autobahn", "javascript"),
        120.0,
    ),
    Judge(
        "autobahn_python",
        "Autobahn: the Python client",
        "registry",
        (_KOSOKU,),
        (sys.executable, "-m", "judges.autobahn", "python"),
        120.0,
    ),
    Judge(
        "autobahn_gateway",
        "Autobahn: the gateway's socket",
        "registry",
        (_KOSOKU,),
        (sys.executable, "-m", "judges.autobahn", "gateway"),
        90.0,
    ),
    Judge(
        "trace_context",
        "W3C trace context: gateway, RabbitMQ and a service",
        "clone",
        (clone("TRACE_CONTEXT", "github.com/w3c/trace-context", "test/test.py"),),
        (sys.executable, "-m", "judges.trace_context"),
        60.0,
    ),
    Judge(
        "porcupine",
        "Porcupine: linearizability of the fault suite's histories",
        "registry",
        (program("go", "install Go 1.21 or newer"), missing_histories),
        (sys.executable, "-m", "judges.histories"),
        90.0,
        toolchain="go",
    ),
    Judge(
        "asyncapi",
        "AsyncAPI parser: the generated document",
        "registry",
        (_PARSER,),
        (sys.executable, "-m", "judges.asyncapi_parser"),
        120.0,
    ),
)


def main() -> int:
    """Run the judges that were asked for; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make judges", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--registry", action="store_true", help="only those of a package registry whose compiler is installed"
    )
    parser.add_argument("--only", metavar="NAME", help="only judges whose name begins like this")
    asked = parser.parse_args()
    chosen = [
        judge
        for judge in JUDGES
        if (not asked.registry or (judge.source == "registry" and not judge.lacks_toolchain))
        and (not asked.only or judge.name.startswith(asked.only))
    ]
    if not chosen:
        parser.error(f"--only {asked.only}: there are {', '.join(judge.name for judge in JUDGES)}")
    began = time.monotonic()
    outcomes = asyncio.run(_run_all(chosen))
    seconds = time.monotonic() - began
    rows = [
        page.Row(judge, outcome, Expected.read(_expected(judge)))
        for judge, outcome in zip(chosen, outcomes, strict=True)
    ]
    sys.stdout.write(page.terminal(rows) + "\n")
    for judge in JUDGES:
        if asked.registry and judge.lacks_toolchain:
            sys.stdout.write(f"– {judge.judged}: not run, {judge.toolchain} is not on PATH\n")
    if len(chosen) == len(JUDGES) and all(outcome.cases is not None for outcome in outcomes):
        day = datetime.datetime.now(datetime.UTC).date().isoformat()
        facts = f"{seconds:.0f} s on {_facts()}"
        _PAGE.write_text(page.markdown(rows, day, facts))
    return 1 if any(row.outcome.problems for row in rows) else 0


async def _run_all(judges: Sequence[Judge]) -> list[Outcome]:
    """Run the judges, some at the same time."""
    _RESULTS.mkdir(parents=True, exist_ok=True)
    places = asyncio.Semaphore(_AT_ONCE)
    ends = time.monotonic() + LIMIT

    async def one(judge: Judge) -> Outcome:
        if missing := [text for need in judge.needs if (text := need())]:
            return Outcome(problems=missing)
        async with places:
            began = time.monotonic()
            outcome = await _run(judge, min(judge.seconds, ends - began))
            outcome.seconds = time.monotonic() - began
            return outcome

    return list(await asyncio.gather(*map(one, judges)))


async def _run(judge: Judge, seconds: float) -> Outcome:
    """Run one judge's program, and judge what it wrote."""
    results, log = _RESULTS / f"{judge.name}.json", _RESULTS / f"{judge.name}.log"
    results.unlink(missing_ok=True)  # an earlier run's outcomes must not count as this one's
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *judge.command,
            "--output",
            str(results),
            cwd=ROOT,
            stdout=output,
            stderr=output,
            start_new_session=True,  # so that its own processes can be ended with it
        )
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                status = await process.wait()
        except TimeoutError:
            return Outcome(problems=[f"not over after {seconds:.0f} s: {_last_of(log)}"])
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0 or not results.exists():
        return Outcome(problems=[f"its program ended with status {status}: {_last_of(log)}"])
    written: Any = json.loads(results.read_text())
    cases: dict[str, str] = written["cases"]
    return Outcome(cases, problems(cases, Expected.read(_expected(judge))))


def _expected(judge: Judge) -> Path:
    return _EXPECTED / f"{judge.name}.toml"


def _last_of(log: Path) -> str:
    return " ".join(log.read_bytes()[-_LAST_OUTPUT:].decode(errors="replace").split()) or "no output"


def _facts() -> str:
    named = ", ".join(f"{name} {version(name)}" for name in ("kosoku", "websockets"))
    return f"{os.cpu_count()} cores, Python {platform.python_version()}, {named}"


if __name__ == "__main__":
    sys.exit(main())
