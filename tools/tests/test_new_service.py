"""``towpath new service`` and ``towpath delete service``, as typed."""

import ast
import io
import os
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from towpath.tools.service_lists import COMPOSE, LAYERS, OddList, insertions
from towpath.tools.service_names import LETTERS_MAX, BadName, check_name

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
#: The parts of the repository that the commands read and write.
PARTS = (
    "Makefile",
    LAYERS,
    COMPOSE,
    "scripts",
    "docs/reference",
    "deploy",
    "libs",
    "services",
    "clients/js/src",
)


def towpath(*arguments: str, folder: Path, path: str = "") -> tuple[int, str, str]:
    """Run it in ``folder``; status, output and errors."""
    ran = subprocess.run(
        [BIN / "towpath", *arguments],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return ran.returncode, ran.stdout, ran.stderr


def run(*command: str | Path, folder: Path, path: str = "") -> str:
    """Run a command that must succeed; its output."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "HOME": os.environ.get("HOME", "/")}
    ran = subprocess.run(
        list(command), cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A copy of the parts of the repository that matter here."""
    copy = tmp_path / "repository"
    for part in PARTS:
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "vectors", ".*_cache", "node_modules", "dist")
            shutil.copytree(ROOT / part, copy / part, ignore=ignored)
        else:
            shutil.copy(ROOT / part, copy / part)
    return copy


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_style(service: Path) -> None:
    """Formatting and lint, as `make check` demands them."""
    run(BIN / "ruff", "format", "--check", "--quiet", service, folder=ROOT)
    run(BIN / "ruff", "check", "--quiet", "--config", ROOT / "pyproject.toml", service, folder=ROOT)


def check_types(service: Path) -> None:
    """Types, as `make check` demands them, with its cache."""
    sources = [*ROOT.glob("libs/*/src"), ROOT / "tools/src", *ROOT.glob("services/*/src")]
    path = ":".join(map(str, [*sources, service / "src", service / "tests"]))
    environment = {**os.environ, "MYPYPATH": path}
    ran = subprocess.run(
        [BIN / "mypy", "--no-error-summary", service],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stderr


def lines_of_code(path: Path) -> int:
    """Lines with code, without comments and docstrings."""
    return len(set(_code(path.read_text())))


def _code(text: str) -> Iterator[int]:
    docstrings = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
        for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in silent and token.string:
            yield from set(range(token.start[0], token.end[0] + 1)) - docstrings


# In this repository


@pytest.mark.parametrize("storage", [False, True], ids=["plain", "storage"])
def test_a_new_service_passes_the_checks_and_is_deleted_without_a_trace(
    storage: bool, repository: Path
) -> None:
    before = contents(repository)
    status, output, errors = towpath(
        "new", "service", "mill", *(["--storage"] if storage else []), folder=repository / "libs"
    )
    assert (status, errors) == (0, "")
    assert "make run" in output
    service = repository / "services" / "mill"
    after = contents(repository)
    changed = {name for name in before if before[name] != after[name]}
    assert changed >= {LAYERS, COMPOSE, "deploy/rabbitmq/definitions.json"}
    assert b' | mill",  # a new service has its place here' in after[LAYERS]
    check_style(service)
    if storage:  # with all that the other one has
        check_types(service)
    path = f"{service / 'src'}"
    ran = run(
        BIN / "pytest",
        "-q",
        "-c",
        ROOT / "pyproject.toml",
        "--rootdir",
        ROOT,
        service,
        folder=ROOT,
        path=path,
    )
    # With storage each runs on SQLite and on PostgreSQL.
    assert f"{6 if storage else 2} passed" in ran
    secrets = run(repository / "scripts/env", folder=repository)
    assert "TOWPATH_BROKER_PASSWORD_MILL" in secrets
    assert ("MILL_DATABASE_PASSWORD" in secrets) is storage
    (repository / ".env").unlink()

    status, output, errors = towpath("delete", "service", "mill", folder=repository)
    assert (status, output) == (1, "")
    assert errors == "towpath: this would delete services/mill with all changes in it: say --yes\n"
    assert contents(repository).keys() >= after.keys()
    for cache in (*service.rglob("__pycache__"), *repository.glob(".*_cache")):
        shutil.rmtree(cache)
    status, output, errors = towpath("delete", "service", "mill", "--yes", folder=repository)
    assert (status, errors) == (0, "")
    assert contents(repository) == before


def test_lines_that_were_changed_are_not_removed(repository: Path) -> None:
    assert towpath("new", "service", "mill", folder=repository)[0] == 0
    compose = repository / COMPOSE
    compose.write_text(compose.read_text().replace("[towpath-mill]", "[towpath-mill, --slowly]"))
    before = contents(repository)
    status, _, errors = towpath("delete", "service", "mill", "--yes", folder=repository)
    assert status == 1
    assert errors.startswith(
        "towpath: docker-compose.yml: the text of the service, from 'mill:' on, is not as it was"
    )
    assert contents(repository) == before


def test_a_committed_service_is_not_deleted() -> None:
    status, _, errors = towpath("delete", "service", "orders", "--yes", folder=ROOT)
    assert status == 1
    assert errors == "towpath: services/orders is committed; revert the commit that added it\n"
    status, _, errors = towpath("delete", "service", "oders", folder=ROOT)
    assert (status, errors) == (1, "towpath: there is no service 'oders' in services; did you mean orders?\n")


def test_a_failure_is_undone_and_is_one_line(repository: Path) -> None:
    (repository / "scripts" / "definitions.py").write_text("raise SystemExit('no definitions today')")
    before = contents(repository)
    status, _, errors = towpath("new", "service", "mill", folder=repository)
    assert (status, errors) == (1, "towpath: services/mill was not made: no definitions today\n")
    assert contents(repository) == before


# Elsewhere


@pytest.mark.parametrize("storage", [False, True], ids=["plain", "storage"])
def test_elsewhere_it_is_a_project_of_its_own(storage: bool, tmp_path: Path) -> None:
    arguments = ["--storage"] if storage else []
    assert towpath("new", "service", "mill", *arguments, folder=tmp_path) == (
        0,
        "mill is there. Next: towpath dev --with mill/src/mill/app.py\n",
        "",
    )
    project = tmp_path / "mill"
    assert f"{3 if storage else 2} passed" in run(BIN / "pytest", "-q", folder=project)
    # The rest, of one form in every service: the definition, the program, the migration.
    own = [project / "src/mill" / name for name in ("handlers.py", "storage.py")]
    assert sum(lines_of_code(path) for path in own if path.exists()) < 80
    assert sum(map(lines_of_code, (project / "src").rglob("*.py"))) < 120
    status, _, errors = towpath("new", "service", "mill", folder=tmp_path)
    assert (status, errors) == (2, "towpath: mill exists already; take another name, or delete it first\n")
    status, _, errors = towpath("delete", "service", "mill", folder=tmp_path)
    assert (status, "a project of its own is its folder: delete that" in errors) == (1, True)
    status, _, errors = towpath("new", "service", "lock", "--into", "nowhere", folder=tmp_path)
    assert (status, errors) == (2, "towpath: --into nowhere: there is no such folder; make it first\n")


# Names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", f"2 to {LETTERS_MAX} small letters and digits, a letter first"),
        ("m", f"2 to {LETTERS_MAX} small letters and digits, a letter first"),
        ("Lock-Keeper", f"2 to {LETTERS_MAX} small letters and digits, a letter first, such as lockkeeper"),
        ("2mill", f"2 to {LETTERS_MAX} small letters and digits, a letter first, such as mill"),
        ("mühle", f"2 to {LETTERS_MAX} small letters and digits, a letter first, such as mhle"),
        ("m" * 25, f"it has 25 letters; 2 to {LETTERS_MAX} small letters and digits, a letter first"),
        ("../mill", "such as mill"),
        ("mill\n", "such as mill"),
        ("session", "gateways answer this domain themselves; take another word"),
        ("service", "gateways answer this domain themselves; take another word"),
        ("towpath", "Towpath uses this word itself; take another one"),
        ("import", "it is a keyword of Python; take another word"),
        ("order", "the service orders owns the domain order; take another word"),
    ],
)
def test_a_name_that_cannot_be_is_refused_with_the_reason(name: str, problem: str) -> None:
    taken = {"order": "the service orders owns the domain order"}
    with pytest.raises(BadName) as bad:
        check_name(name, taken, alone=False)
    assert str(bad.value).startswith("a service cannot be named ")
    assert problem in str(bad.value)


def test_a_module_of_python_is_refused_for_a_package_of_its_own_alone() -> None:
    assert check_name("queue", {}, alone=False) == "queue"
    with pytest.raises(BadName, match="Python has a module of this name"):
        check_name("queue", {}, alone=True)


@pytest.mark.parametrize("name", ["order", "chat", "orders", "web", "gateway"])
def test_a_taken_name_writes_nothing(name: str) -> None:
    status, _, errors = towpath("new", "service", name, folder=ROOT)
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"towpath: a service cannot be named '{name}': ")


# Lists


@pytest.mark.parametrize("name", ["aa", "inbox", "websocket", "zz"])
def test_a_list_without_the_service_is_the_list_before(name: str) -> None:
    found = insertions(name, f"  {name}:\n    command: [towpath-{name}]\n\n", with_storage=True)
    for file in (LAYERS, COMPOSE):
        before = (ROOT / file).read_text()
        text = before
        for one in found:
            if one.file == file:
                text = one.into(text)
        assert text.count(name) > before.count(name)
        for one in found:
            if one.file == file:
                text = one.out_of(text)
        assert text == before


def test_a_list_of_another_form_is_reported() -> None:
    for one in insertions("mill", "  mill:\n\n", with_storage=True):
        with pytest.raises(OddList, match="add the service by hand"):
            one.into("nothing that is known\n")
