"""Alerts and the dashboard: their expressions are valid, name metrics that exist, and lead to the runbook."""

import ast
import json
import re
import runpy
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import unescape

import pytest
import yaml

from towpath.tools.packages import Program, ProgramMissing, find_or_install

ROOT: Final = Path(__file__).parent.parent
PROMTOOL: Final = Program("Prometheus", "prometheus", ("promtool",))
PROMETHEUS: Final = ROOT / "deploy/prometheus"
DASHBOARD: Final = ROOT / "deploy/grafana/towpath.json"
RUNBOOK: Final = (ROOT / "docs/operations/runbook.md").read_text()
ALERTS: Final[list[dict[str, Any]]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
NAMES: Final = [alert["alert"] for alert in ALERTS]

#: Series that others make: Prometheus itself, and RabbitMQ.
FOREIGN: Final = re.compile(r"up|ALERTS|rabbitmq_\w+")
#: Names in expressions beside those of metrics.
_WORD: Final = re.compile(
    "and|or|unless|by|on|without|ignoring|offset|sum|max|min|avg|group|count|rate|increase|histogram_quantile"
)


@pytest.fixture(scope="module")
def promtool() -> Path:
    try:
        return find_or_install(PROMTOOL)
    except ProgramMissing as missing:
        pytest.fail(str(missing), pytrace=False)


def registered() -> set[str]:
    """The names of all series of Towpath's programs, as their code registers them.

    A name that is completed at run time (``effects_{state}``) is a pattern: ``effects_\\w+``.
    """
    endings = {
        "counter": ["_total"],
        "counted": ["_total"],
        "gauge": [""],
        "histogram": [f"_seconds{part}" for part in ("_bucket", "_sum", "_count")],
        "sizes": ["_bucket", "_sum", "_count"],
    }
    found: set[str] = set()
    for path in [*ROOT.glob("libs/*/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                name = _pattern(node.args[0])
                found |= {f"{name}{ending}" for ending in endings.get(node.func.attr, ()) if name}
    return found


def _pattern(name: ast.expr) -> str | None:
    if isinstance(name, ast.Constant) and isinstance(name.value, str):
        return name.value
    if isinstance(name, ast.JoinedStr):
        return "".join(_pattern(part) or r"\w+" for part in name.values)
    return None


def series_of(expression: str) -> set[str]:
    """The names of the series in a PromQL expression."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", bare)
    bare = re.sub(r"\b(?:by|on|without|ignoring)\s*\([^)]*\)", " ", bare)
    return {name for name in re.findall(r"(?<![\w.])[A-Za-z_]\w*", bare) if not _WORD.fullmatch(name)}


def expressions() -> Iterator[tuple[str, str]]:
    """The name and the expression of each alert and of each series of the dashboard."""
    yield from ((alert["alert"], alert["expr"]) for alert in ALERTS)
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"]


def test_each_alert_fires_and_is_silent_as_its_unit_tests_say(promtool: Path) -> None:
    ran = subprocess.run(
        [promtool, "test", "rules", "alerts_test.yml"],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_each_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_is_silent() -> None:
    outcomes: dict[str, set[bool]] = {name: set() for name in NAMES}
    for case in yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]:
        for rule in case["alert_rule_test"]:
            outcomes[rule["alertname"]].add(bool(rule.get("exp_alerts")))
    assert {name: said for name, said in outcomes.items() if said != {True, False}} == {}


def test_the_configuration_of_prometheus_is_valid(promtool: Path) -> None:
    ran = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        cwd=PROMETHEUS,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_jobs_for_kubernetes_are_valid(promtool: Path, tmp_path: Path) -> None:
    jobs = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    for job in jobs:
        # Debian's Prometheus has no discovery in Kubernetes; its roles and names are those of its documentation.
        for discovery in job.pop("kubernetes_sd_configs"):
            assert discovery.keys() <= {"role", "namespaces", "selectors"}
            assert discovery["role"] == "pod"
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump({"scrape_configs": jobs}))
    ran = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert {job["job_name"] for job in jobs} == {"towpath", "rabbitmq", "rabbitmq-queues"}


def test_prometheus_asks_the_programs_of_the_compose_file() -> None:
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    asked = {
        name
        for job in configuration["scrape_configs"]
        for group in job.get("dns_sd_configs", ())
        for name in group["names"]
    }
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    programs = {
        name: service["command"][0]
        for name, service in services.items()
        if str(service.get("command", [""])[0]).startswith("towpath-")
    } | dict.fromkeys(("gateway-1", "gateway-2"), "towpath-gateway")
    # A new service gets its job when it is deployed.
    known = {"gateway-1", "gateway-2", "ingress", "chat", "inventory", "notifications", "orders"}
    assert known <= asked <= programs.keys()
    jobs = {job["job_name"] for job in configuration["scrape_configs"]}
    assert {programs[name] for name in asked} <= jobs


@pytest.mark.parametrize("alert", ALERTS, ids=NAMES)
def test_an_alert_leads_to_its_entry_in_the_runbook(alert: dict[str, Any]) -> None:
    name = alert["alert"]
    assert alert["annotations"]["runbook_url"] == f"docs/operations/runbook.md#{name.lower()}"
    assert alert["labels"]["severity"] in ("page", "ticket")
    entry = re.search(rf"^### {name}\n(.*?)(?=^#|\Z)", RUNBOOK, re.M | re.S)
    assert entry is not None, f"docs/operations/runbook.md has no entry {name}"
    for part in ("**Look**", "**Mend**"):
        assert part.lower() in entry[1].lower(), f"{name}: the entry does not say where to {part}"


def test_the_runbook_has_no_entry_without_an_alert() -> None:
    assert re.findall(r"^### (.*)$", RUNBOOK, re.M) == list(dict.fromkeys(NAMES))


def test_each_alert_has_a_trial_in_which_real_programs_make_it_fire() -> None:
    """`make alerts` runs them; this run only sees that there is one."""
    trials = "".join(path.read_text() for path in (ROOT / "tests/alerts").glob("test_*.py"))
    assert [name for name in NAMES if f'"{name}"' not in trials] == []


def test_the_picture_of_the_dashboard_shows_each_panel_of_it() -> None:
    picture = unescape((ROOT / "docs/images/dashboard.svg").read_text())
    titles = [panel["title"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert [title for title in titles if f">{title}</text>" not in picture] == [], (
        'run `make alerts ARGS="-k quiet --dashboard docs/images/dashboard.svg"`'
    )


def test_each_series_of_alerts_and_dashboard_exists() -> None:
    known = [re.compile(name) for name in registered()]
    missing = {
        (where, name)
        for where, expression in expressions()
        for name in series_of(expression)
        if not FOREIGN.fullmatch(name) and not any(pattern.fullmatch(name) for pattern in known)
    }
    assert missing == set()


def test_each_metric_and_log_event_of_the_runbook_exists() -> None:
    """Words in code marks with an underscore: metrics, log events, fields of answers; or words of other systems."""
    foreign = {
        "disk_free_limit", "pause_minority", "messages_ready", "messages_unacknowledged", "message_bytes",
        "max_connections", "w_await", "check_running", "list_queues", "msg_id", "xact_start", "wait_event_type",
        "pg_stat_activity", "wal_max_size_bytes",
    }  # fmt: skip
    source = "\n".join(
        path.read_text()
        for pattern in ("libs/*/src/**/*.py", "services/*/src/**/*.py")
        for path in ROOT.glob(pattern)
    )
    known = [re.compile(name) for name in registered()]
    code = " ".join(re.findall(r"`([^`]+)`", re.sub(r"^ *```.*?^ *```$", "", RUNBOOK, flags=re.M | re.S)))
    words = set(re.findall(r"(?<![\w.])[a-z]+(?:_[a-z]+)+\b", code)) - foreign
    assert len(words) > 15
    missing = {
        word
        for word in words
        if f'"{word}"' not in source
        and not any(
            pattern.fullmatch(name) for name in (word, f"{word}_bucket", f"{word}_total") for pattern in known
        )
        and not re.search(rf"\b{word}\b", (ROOT / "docs/reference/protocol.md").read_text())
    }
    assert missing == set()


def test_the_dashboard_is_up_to_date() -> None:
    render = runpy.run_path(str(ROOT / "scripts/dashboard.py"))["render"]
    assert DASHBOARD.read_text() == render(), "run `make docs`"


def test_each_expression_of_the_dashboard_is_valid(promtool: Path, tmp_path: Path) -> None:
    rules = [
        {"record": "panel", "labels": {"panel": name}, "expr": expression.replace("$__rate_interval", "1m")}
        for name, expression in expressions()
        if name not in NAMES
    ]
    assert len(rules) > 20
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = subprocess.run([promtool, "check", "rules", path], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_panels_of_the_dashboard_have_a_title_an_own_id_and_a_place_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]


def test_grafana_finds_the_dashboard_and_prometheus_where_the_compose_file_puts_them() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    (provider,) = yaml.safe_load((ROOT / "deploy/grafana/dashboards.yml").read_text())["providers"]
    targets = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert any(str(Path(target).parent) == provider["options"]["path"] for target in targets)
    sources = yaml.safe_load((ROOT / "deploy/grafana/datasources.yml").read_text())["datasources"]
    assert {source["type"]: source["url"] for source in sources} == {
        "prometheus": "http://prometheus:9090",
        "jaeger": "http://jaeger:16686",
    }
    assert {"prometheus", "jaeger"} <= services.keys()
