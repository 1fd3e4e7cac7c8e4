"""The packages that are installed and shipped: each is pinned with a hash, and a bill of materials names it."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.tracked import tracked

ROOT = Path(__file__).parents[1]

PYTHON_LOCKS = sorted([*ROOT.glob("requirements*.lock"), *ROOT.glob("scripts/*.txt")])


def pins(lock: Path) -> dict[str, tuple[str, list[str]]]:
    """Name → version and hashes of each requirement of a lock."""
    text = lock.read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            name, version = re.match(r"([a-z0-9._-]+)(?:\[[^]]*\])?(?:==(\S+))?", line).groups()  # type: ignore[union-attr]
            found[name] = (version, re.findall(r"--hash=sha256:([0-9a-f]{64})", line))
    return found


@pytest.mark.parametrize("lock", PYTHON_LOCKS, ids=lambda lock: lock.name)
def test_every_python_package_is_pinned_with_hashes(lock: Path) -> None:
    assert len(PYTHON_LOCKS) >= 5
    locked = pins(lock)
    assert locked
    assert [name for name, (version, hashes) in locked.items() if not (version and hashes)] == []


@pytest.mark.parametrize("lock", tracked("*package-lock.json"), ids=lambda lock: str(lock.relative_to(ROOT)))
def test_every_npm_package_is_pinned_with_a_hash(lock: Path) -> None:
    packages: dict[str, dict[str, Any]] = json.loads(lock.read_text())["packages"]
    fetched = {
        name: each for name, each in packages.items() if "node_modules/" in name and not each.get("link")
    }
    # A package inside of another's archive has the hash of that archive.
    unpinned = [
        name for name, each in fetched.items() if "integrity" not in each and not each.get("inBundle")
    ]
    assert fetched
    assert unpinned == []


def test_every_go_module_is_pinned_with_hashes() -> None:
    for module in tracked("*go.mod"):
        required = re.findall(r"^\s*(?:require )?([a-z0-9.-]+\.[a-z]+/\S+) (v\S+)", module.read_text(), re.M)
        sums = (module.parent / "go.sum").read_text()
        for name, version in required:
            assert f"{name} {version} h1:" in sums, f"{module}: {name}"


def test_every_install_checks_hashes() -> None:
    """Only the workspace's own packages are installed without: they come from no registry."""
    files = [ROOT / "Makefile", ROOT / ".ci/run", *tracked("scripts", "deploy", "judges")]
    commands = [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in files
        for line in path.read_text(errors="replace").replace("\\\n", " ").splitlines()
        if re.search(r"pip (?:install|sync)|npm (?:\S+ )*(?:install|i|ci|add)\b|npx |go install", line)
        and not line.lstrip().startswith(("#", "fail", "//"))
    ]
    assert len(commands) >= 6
    unchecked = [
        line for line in commands if not re.search(r"--require-hashes|npm (?:\S+ )*ci\b|--no-deps", line)
    ]
    assert unchecked == []


def test_an_archive_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    lock = (ROOT / "requirements.lock").read_text()
    pinned = re.search(r"^iniconfig==(?:.*\\\n)*.*$", lock, re.M)
    assert pinned
    forged = tmp_path / "forged.txt"
    forged.write_text(re.sub(r"[0-9a-f]{64}", "0" * 64, pinned[0]))
    uv = [str(ROOT / ".venv/bin/uv"), "pip", "install", "--quiet", "--require-hashes", "--no-cache"]
    ran = subprocess.run(
        [*uv, "--target", tmp_path / "target", "-r", forged], capture_output=True, text=True, check=False
    )
    assert ran.returncode != 0
    assert "Hash mismatch for `iniconfig" in ran.stderr


@pytest.fixture(scope="module")
def bills() -> dict[str, dict[str, Any]]:
    """The bills of materials, by file."""
    return {name: json.loads(content) for name, content in make_sbom().items()}


def make_sbom() -> dict[str, bytes]:
    ran = subprocess.run(["make", "sbom"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return {name: (ROOT / f"test-results/sbom/{name}.json").read_bytes() for name in ("python", "javascript")}


def test_the_bill_of_materials_names_every_package_of_the_image(bills: dict[str, dict[str, Any]]) -> None:
    listed = {each["name"].lower(): each for each in bills["python"]["components"]}
    locked = pins(ROOT / "requirements-runtime.lock")
    assert listed.keys() == locked.keys()
    for name, (version, hashes) in locked.items():
        assert listed[name]["version"] == version
        references = listed[name].get("externalReferences", [])
        named = {each["content"] for reference in references for each in reference.get("hashes", [])}
        assert named >= set(hashes), name


def test_the_bill_of_materials_names_every_package_of_the_page(bills: dict[str, dict[str, Any]]) -> None:
    listed = {
        f"{each['group']}/{each['name']}" if "group" in each else each["name"]
        for each in bills["javascript"]["components"]
    }
    assert listed == {
        "@towpath/client",
        "@towpath/web",
        "@preact/signals",
        "@preact/signals-core",
        "preact",
    }


def test_the_bill_of_materials_is_the_same_for_the_same_commit(bills: dict[str, dict[str, Any]]) -> None:
    assert {name: json.loads(content) for name, content in make_sbom().items()} == bills
