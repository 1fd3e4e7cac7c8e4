"""The package as others get it: two wheels, in an environment of their own."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UV = Path(sys.executable).parent / "uv"

#: A program of a user without this repository.
PROGRAM = """
import asyncio, importlib.metadata, json, sys
from towpath.client import FileStorage, TowpathError, connect, key_of

async def main():
    client = connect("ws://127.0.0.1:1/ws", token="t", storage=FileStorage("positions.json"))
    client.on_error(lambda error: None)
    attempted = asyncio.Event()
    client.on("retry", attempted.set)
    client.start()
    await asyncio.wait_for(attempted.wait(), 10)
    await client.close()
    return client.state

ended = asyncio.run(main())
own = [name for name in sys.modules if name.startswith("towpath.")]
print(json.dumps({
    "ended": ended,
    "where": sys.modules["towpath.client"].__file__,
    "packages": sorted({name.split(".")[1] for name in own}),
    "requires": importlib.metadata.requires("towpath-client"),
}))
"""


def run(*command: object, cwd: Path = ROOT) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [str(word) for word in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The client's wheel, and the protocol's."""
    folder = tmp_path_factory.mktemp("wheels")
    for source in ("clients/python", "libs/protocol"):
        run(
            UV,
            "build",
            "--wheel",
            "--offline",
            "--no-build-isolation",
            f"--python={sys.executable}",
            f"--out-dir={folder}",
            source,
        )
    return sorted(folder.glob("*.whl"))


def test_the_wheel_holds_the_package_and_nothing_else(wheels: list[Path]) -> None:
    names = {name for name in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in name}
    sources = (ROOT / "clients/python/src").rglob("*")
    assert names == {
        path.relative_to(ROOT / "clients/python/src").as_posix()
        for path in sources
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "towpath/client/py.typed" in names
    assert "towpath/__init__.py" not in names, "towpath is a namespace package"


def test_the_wheel_runs_outside_the_repository_with_its_declared_requirements(
    wheels: list[Path], tmp_path: Path
) -> None:
    venv, elsewhere = tmp_path / "venv", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(UV, "venv", "--offline", f"--python={sys.executable}", venv)
    python = venv / "bin/python"
    run(UV, "pip", "install", "--offline", "--no-index", "--no-deps", f"--python={python}", *wheels)
    # The dependencies come from here. A .pth in there is not read again, so none of our sources come with them.
    libraries = Path(pytest.__file__).parents[1]
    next(venv.glob("lib/python*/site-packages")).joinpath("libraries.pth").write_text(f"{libraries}\n")
    told = json.loads(run(python, "-W", "error", "-c", PROGRAM, cwd=elsewhere))
    assert told["ended"] == "closed"
    assert Path(told["where"]).is_relative_to(venv)
    assert told["packages"] == ["client", "protocol"]
    assert sorted(told["requires"]) == [
        "msgspec>=0.22",
        "pydantic>=2.14",
        "towpath-protocol",
        "websockets>=17.4",
    ]
