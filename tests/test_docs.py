"""The documents say what the code does: where they could drift apart, one of these fails."""

import ast
import re
import runpy
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.tracked import tracked
from towpath.orders.app import ORDERS
from towpath.protocol.close_codes import CloseCode, should_reconnect
from towpath.protocol.envelope import Envelope
from towpath.protocol.errors import ErrorCode
from towpath.protocol.routes import EXCHANGES, RETRY_DELAYS
from towpath.servicekit.installed import InstalledService, installed_services

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs/reference/protocol.md").read_text()
DEFINITIONS = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
PAGES = tracked("*.md")


def section(title: str) -> str:
    """The text below a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}$", PROTOCOL, re.M)
    assert found is not None, title
    rest = PROTOCOL[found.end() :]
    end = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.M)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The rows of all tables in ``text``, without their heads."""
    tables = [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if line.startswith("|")
    ]
    heads = {
        n for n, row in enumerate(tables) if n + 1 < len(tables) and set("".join(tables[n + 1])) <= {"-", " "}
    }
    return [row for n, row in enumerate(tables) if n not in heads and n - 1 not in heads]


def test_the_settings_page_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/settings.py"))["render"]
    assert (ROOT / "docs/reference/settings.md").read_text() == render(), "run `make docs`"


def test_the_metrics_page_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/metrics.py"))["render"]
    assert (ROOT / "docs/reference/metrics.md").read_text() == render(), "run `make docs`"


def test_the_reference_of_the_service_kit_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/servicekit.py"))["render"]
    assert (ROOT / "docs/reference/servicekit.md").read_text() == render(), "run `make docs`"


def test_the_list_of_known_settings_is_up_to_date() -> None:
    script = runpy.run_path(str(ROOT / "scripts/settings.py"))
    assert script["NAMES"].read_text() == script["render_names"](), "run `make docs`"


def test_the_types_of_the_javascript_client_are_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/actions.py"))["render"]
    assert (ROOT / "clients/js/src/actions.ts").read_text() == render(), "run `make docs`"


def test_the_contract_lists_every_field_of_an_envelope() -> None:
    names = {name for row in rows(section("The envelope")) for name in re.findall(r"`(\w+)`", row[0])}
    assert names == set(Envelope.model_fields)


def test_the_contract_lists_every_error_code_with_whether_it_is_retryable() -> None:
    told = {
        row[0].strip("`"): row[1] for row in rows(section("Answers, errors, repetitions")) if len(row) == 3
    }
    assert told == {code.value: "yes" if code.retryable else "no" for code in ErrorCode}


def test_the_contract_lists_every_close_code_with_whether_to_reconnect() -> None:
    told = {int(row[0]): row[1] for row in rows(section("Close codes"))}
    assert told == {int(code): "yes" if should_reconnect(code) else "no" for code in CloseCode}


@pytest.mark.parametrize("service", installed_services(), ids=lambda service: service.name)
def test_the_contract_lists_every_action_of_a_service_and_no_other(service: InstalledService) -> None:
    actions = {row[0].strip("`") for row in rows(section(service.name.capitalize())) if len(row) == 2}
    assert actions == set(service.definition().commands)


def test_the_contract_lists_every_event_that_orders_consumes() -> None:
    _, _, text = section("Orders").partition("**Events in**")
    listed, _, _ = text.partition("with data")
    assert set(re.findall(r"`(order\.\w+)`", listed)) == set(ORDERS.events)


def test_exchanges_and_retry_queues_have_their_names() -> None:
    text = section("RabbitMQ")
    assert [name for name in EXCHANGES if f"`{name}`" not in text] == []
    assert [delay for delay in RETRY_DELAYS if f".{delay}`" not in text] == []


def test_every_setting_that_a_page_names_exists() -> None:
    known = set(re.findall(r"`(TOWPATH_\w+)`", (ROOT / "docs/reference/settings.md").read_text()))
    # Passwords that docker-compose.yml puts into addresses.
    known |= set(re.findall(r"\bTOWPATH_[A-Z_]+", (ROOT / "docker-compose.yml").read_text()))
    for page in PAGES:
        assert set(re.findall(r"\bTOWPATH_[A-Z_]+", page.read_text())) <= known, page


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_every_link_leads_somewhere(page: Path) -> None:
    # Without code: a regular expression may look like a link.
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / unquote(path) if path else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in headings}


def test_each_name_beside_a_link_of_the_reading_page_is_defined_in_that_file() -> None:
    page = ROOT / "docs/reading.md"
    stops = re.findall(r"\]\((\.\./[^)\s]+\.py)\): ((?:`[\w.]+`(?:, )?\s*)+)", page.read_text())
    assert len(stops) > 10
    for target, names in stops:
        tree = ast.parse((page.parent / target).read_text())
        defined = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)} | {
            part.id
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for part in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(part, ast.Name)
        }
        for name in re.findall(r"`([\w.]+)`", names):
            assert set(name.split(".")) <= defined, f"{name} in {target}"


def test_each_threat_of_the_security_page_names_a_control_and_a_test_that_exist() -> None:
    threats = [row for row in rows((ROOT / "SECURITY.md").read_text()) if len(row) == 4]
    numbers = [row[0] for row in threats]
    assert len(set(numbers)) == len(numbers) > 30
    for number, _, control, test in threats:
        assert "](" in control, f"{number} names no file"
        found = re.fullmatch(r"`([\w./-]+\.py)::(test_\w+)`", test)
        assert found is not None, f"{number}: {test}"
        tree = ast.parse((ROOT / found[1]).read_text())
        tests = {node.name for node in ast.walk(tree) if isinstance(node, DEFINITIONS)}
        assert found[2] in tests, f"{number}: {found[1]} has no {found[2]}"
