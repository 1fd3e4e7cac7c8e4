"""Figures and names on pages agree with the code: each is built here from the code, and searched for on its page.

A setting whose default changes fails here with the page that still quotes the old one.
"""

import json
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import pytest

from tests.tracked import tracked
from towpath.chat.settings import ChatSettings
from towpath.gateway.admission.connect_rates import FAILED_TLS_COST
from towpath.gateway.settings import GatewaySettings
from towpath.protocol.envelope import VERSION
from towpath.protocol.routes import PARTITIONS, RETRY_DELAYS, USER_ID_BYTES, USER_ID_CHARACTERS
from towpath.servicekit.runtime import conventions
from towpath.servicekit.runtime.settings import ServiceSettings

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = tracked("*.md")
PROTOCOL: Final = "docs/reference/protocol.md"
_SPELLED: Final = {"5s": "5 s", "30s": "30 s", "2min": "2 min", "10min": "10 min"}


def _default(model: type[Any]) -> Callable[[str], str]:
    def read(name: str) -> str:
        value = model.model_fields[name].default
        return f"{value:,.10g}" if value < 1000 else f"{value:,.0f}"

    return read


GATEWAY, SERVICE, CHAT = _default(GatewaySettings), _default(ServiceSettings), _default(ChatSettings)
_HOURS: Final = f"{ServiceSettings.model_fields['inbox_retention'].default / 3600:g} hours"
_DAYS: Final = f"{ServiceSettings.model_fields['stream_retention'].default / 86_400:g} days"
_KIB: Final = GatewaySettings.model_fields["max_frame_bytes"].default // 1024
_DELAYS: Final = [_SPELLED[name] for name in RETRY_DELAYS]
_PROBE: Final = GATEWAY("probe_interval")
_LOST: Final = sum(GatewaySettings.model_fields[name].default for name in ("probe_interval", "probe_timeout"))

#: The page, and the words in it with the figure of the code.
QUOTED: Final = [
    ("README.md", f"takes effect once within {_HOURS}"),
    ("ARCHITECTURE.md", f"retried for {SERVICE('try_seconds')} s"),
    ("ARCHITECTURE.md", f"retried after {_DELAYS[0]}, {_DELAYS[1]}, {_DELAYS[2]} and {_DELAYS[3]}"),
    ("ARCHITECTURE.md", f"found within {_LOST:g} s: its probe does not return"),
    (PROTOCOL, f"The wire contract, version {VERSION.split('.')[0]}"),
    (PROTOCOL, f'now `"{VERSION}"`'),
    (PROTOCOL, f"takes effect once within {_HOURS}"),
    (PROTOCOL, f"at most {USER_ID_CHARACTERS} characters, and {USER_ID_BYTES} bytes when percent-encoded"),
    (PROTOCOL, f"clock by {GATEWAY('clock_leeway')} s (`TOWPATH_CLOCK_LEEWAY`)"),
    (PROTOCOL, f"{GATEWAY('expiry_notice')} s before the token expires"),
    (PROTOCOL, f"over the limit ({_KIB} KiB unless set otherwise)"),
    (
        PROTOCOL,
        f"have {GATEWAY('rate_per_connection')} tokens a second and {GATEWAY('burst_per_connection')} at once, "
        f"an address {GATEWAY('rate_per_address')} and {GATEWAY('burst_per_address')}",
    ),
    (PROTOCOL, f"`rate_limited` of a service costs its user {GATEWAY('refusal_cost')} tokens"),
    (PROTOCOL, f"with {GATEWAY('rate_strikes')} of those in a minute it closes with 4005"),
    (PROTOCOL, f"at most {GATEWAY('inflight_per_user')} tokens' worth of unanswered requests"),
    (PROTOCOL, f"Past {GATEWAY('inflight_paced')} of them"),
    (PROTOCOL, f"`<domain>.0` to `<domain>.{PARTITIONS - 1}`"),
    (PROTOCOL, f"modulo {PARTITIONS}"),
    (PROTOCOL, f"every {GATEWAY('alive_interval')} s unless set otherwise"),
    (PROTOCOL, f"retried in place, for {SERVICE('try_seconds')} s unless set otherwise"),
    (PROTOCOL, f"more than {CHAT('crowd_members')} members (a setting, `crowd_members`)"),
    (PROTOCOL, f"| rooms that a user is in | {CHAT('rooms_per_user')} |"),
    (PROTOCOL, f"counted separately | {CHAT('direct_rooms_per_user')} |"),
    (PROTOCOL, f"| open invitations of a user | {CHAT('invitations_per_user')} |"),
    (PROTOCOL, f"| open invitations from one user to another | {CHAT('invitations_per_pair')} |"),
    (
        PROTOCOL,
        f"| {CHAT('deliveries_per_user')} a second and {CHAT('deliveries_burst')} at once | `rate_limited`",
    ),
    (PROTOCOL, f"`chat.direct` | {CHAT('rooms_made_per_day')} |"),
    (PROTOCOL, f"receives at most {GATEWAY('groups_per_connection')} rooms"),
    (
        "docs/operations/dead-letters.md",
        f"after {_DELAYS[0]}, {_DELAYS[1]}, {_DELAYS[2]} and {_DELAYS[3]}",
    ),
    (
        "docs/operations/start-and-health.md",
        f"every {SERVICE('database_probe_interval')} s (`TOWPATH_DATABASE_PROBE_INTERVAL`)",
    ),
    (
        "docs/operations/start-and-health.md",
        f"every {GATEWAY('jwks_refresh')} s (`TOWPATH_JWKS_REFRESH`)",
    ),
    (
        "docs/operations/start-and-health.md",
        f"at most once in {GATEWAY('jwks_cooldown')} s (`TOWPATH_JWKS_COOLDOWN`). "
        f"A fetch may take {GATEWAY('jwks_timeout')} s",
    ),
    ("docs/operations/tls.md", f"looks every {GATEWAY('tls_check')} s (`TOWPATH_TLS_CHECK`)"),
    ("docs/operations/tls.md", f"costs its address {FAILED_TLS_COST} connects"),
    ("docs/adr/0029-tls-starts-after-the-count.md", f"costs its address {FAILED_TLS_COST} connects"),
    ("docs/operations/rabbitmq-versions.md", f"({_KIB} KiB a frame, 1 MiB a batch)"),
    ("docs/adr/0004-own-supervisor.md", f"to its own inbox every {_PROBE} s"),
    (
        "docs/adr/0004-own-supervisor.md",
        f"does not arrive in {GATEWAY('probe_timeout')} s",
    ),
    ("docs/adr/0004-own-supervisor.md", f"`TOWPATH_RECONNECT_MAX` ({SERVICE('reconnect_max')} s"),
    ("docs/adr/0008-presence-is-checked.md", f"go offline {CHAT('gateway_silence')} s after"),
    ("docs/adr/0011-selective-routing.md", f"{GATEWAY('routing_binds_per_second')} a second at most"),
    ("docs/adr/0011-selective-routing.md", f"more than {GATEWAY('routing_bindings_max')} users"),
    ("docs/adr/0011-selective-routing.md", f"from {GATEWAY('routing_settle')} s after its confirmation"),
    ("docs/adr/0014-limits-that-are-fair.md", f"at most {GATEWAY('inflight_per_user')} requests"),
    (
        "docs/adr/0014-limits-that-are-fair.md",
        f"costs its user {GATEWAY('connects_after_abuse')} connects",
    ),
    (
        "docs/adr/0015-heavy-reads-run-in-rounds.md",
        f"({SERVICE('heavy_reads_user_max')} of a user, {SERVICE('heavy_reads_max')} in all",
    ),
    ("docs/adr/0016-crowds-are-counted.md", f"more than {CHAT('crowd_members')} members"),
    ("docs/adr/0016-crowds-are-counted.md", f"{CHAT('deliveries_burst')} at once"),
    ("docs/adr/0017-a-text-is-stored-once.md", f"(`stream_retention`, {_DAYS})"),
    ("docs/adr/0019-replicas-agree.md", f"⌊{PARTITIONS}/n⌋ or ⌈{PARTITIONS}/n⌉"),
    (
        "docs/adr/0020-commands-are-retried-in-place.md",
        f"retried for {SERVICE('try_seconds')} s (`TOWPATH_TRY_SECONDS`)",
    ),
    ("CHANGELOG.md", f"replays at most {SERVICE('replay_limit')} entries"),
    ("CHANGELOG.md", f"{CHAT('rooms_per_user')} rooms for a user"),
]


def _text(page: str) -> str:
    return " ".join((ROOT / page).read_text().split())


@pytest.mark.parametrize(("page", "words"), QUOTED)
def test_a_figure_on_a_page_is_the_one_in_the_code(page: str, words: str) -> None:
    assert words in _text(page)


def test_the_readme_quotes_the_benchmark() -> None:
    table = (ROOT / "docs/performance.md").read_text()
    compared = re.findall(
        r"^\| [^|]* \| ([\d,]+) \| ([\d,]+) \| ([^|]*) \|$", _part("README.md", "Performance"), re.M
    )
    assert len(compared) >= 3
    for ours, plain, ratio in compared:
        (found,) = (line for line in table.splitlines() if f"| {ours} | {plain} |" in line)
        if times := re.fullmatch(r"([\d.]+) times", ratio):
            assert float(times[1]) == pytest.approx(float(found.rstrip("| ").split("| ")[-1]), abs=0.05)
    (chat,) = re.findall(r"SQLite / PostgreSQL \| ([\d,]+) / ([\d,]+) \|", (ROOT / "README.md").read_text())
    for database, rate in zip(("SQLite", "PostgreSQL"), chat, strict=True):
        assert f"| {database} | Towpath | {rate} |" in table
    (kib,) = re.findall(r"A connection takes ([\d.]+) KiB", (ROOT / "README.md").read_text())
    assert f"| 10,000 connections | Towpath | {kib} |" in table


def _part(page: str, heading: str) -> str:
    """The text below a heading, up to the next one."""
    return (ROOT / page).read_text().split(f"## {heading}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/reliability-rabbitmq-4.md"])
def test_a_page_of_trials_counts_its_rows(page: str) -> None:
    text = (ROOT / page).read_text()
    ((held, ran),) = re.findall(r"(\d+) of (\d+) trials held", text)
    rows = [line for line in text.splitlines() if re.match(r"\| .* \| [\d,]+ \| \d+ \| \d+ \|", line)]
    assert len(rows) == int(ran)
    assert sum("✗" not in row for row in rows) == int(held)
    assert text.count("\n- *") - text.count("\n- *lost") - 4 >= int(ran), "each row has its promise"


def test_the_page_of_attacks_counts_its_rows() -> None:
    text = (ROOT / "docs/abuse.md").read_text()
    ((held, count),) = re.findall(r"(\d+) of (\d+) attacks stayed within their bounds", text)
    assert text.count("✓ |\n") == int(held)
    assert text.count("✓ |\n") + text.count("✗ |\n") == int(count)


def _exists(name: str) -> bool:
    """Whether ``towpath.…`` is a module, or a name in one."""
    parts = name.split(".")
    for count in range(len(parts), 1, -1):
        try:
            found: Any = import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            found = getattr(found, part, None)
        return found is not None
    return False


#: Exchanges, queues, entry points and distributions whose names look like modules.
_NOT_MODULES: Final = re.compile(r"towpath\.(commands|events|push|revocations|services|v1|token|db)\b")


#: Attributes of spans.
_ATTRIBUTES: Final = {value for value in vars(conventions).values() if isinstance(value, str)}


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_modules_and_files_named_on_a_page_exist(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)
    modules = set(re.findall(r"`(towpath(?:\.\w+)+)`", text))
    modules |= {
        f"towpath.{name}" for name in re.findall(r"`((?:gateway|servicekit|testkit)(?:\.\w+)+)`", text)
    }
    modules -= _ATTRIBUTES
    assert [name for name in modules if not _NOT_MODULES.match(name) and not _exists(name)] == []
    files = set(
        re.findall(r"`((?:libs|services|tools|tests|scripts|docs|bench|deploy|clients)/[\w./-]+)`", text)
    )
    # A tutorial names files that its reader makes.
    if page.parent.name != "tutorial":
        assert [name for name in files if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_a_link_to_a_decision_has_its_number(page: Path) -> None:
    links = re.findall(r"\[ADR\s+(\d+)\]\((?:[\w./]*/)?(\d{4})-[\w-]+\.md\)", page.read_text())
    assert [pair for pair in links if int(pair[0]) != int(pair[1])] == []


def test_every_decision_has_the_number_of_its_file_as_title() -> None:
    for page in (ROOT / "docs/adr").glob("*.md"):
        assert page.read_text().startswith(f"# {int(page.name[:4])}. ")


def test_every_make_target_on_a_page_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        shown = set(re.findall(r"(?:^|`)make ([a-z]+)", page.read_text(), re.M))
        assert shown <= targets, page


def test_the_package_of_the_javascript_client_has_its_version_on_the_pages() -> None:
    version = json.loads((ROOT / "clients/js/package.json").read_text())["version"]
    for page in PAGES:
        named = set(re.findall(r"towpath-client-([\d.]+)\.tgz", page.read_text()))
        assert named <= {version}, page


def test_the_ports_of_the_readme_are_the_defaults_of_dev() -> None:
    dev = (ROOT / "tools/src/towpath/tools/cli.py").read_text()
    ports = set(re.findall(r"\] = (\d{4}),", dev))
    assert {"8000", GATEWAY("port").replace(",", "")} <= ports
    assert set(re.findall(r"http://127\.0\.0\.1:(\d+)", (ROOT / "README.md").read_text())) == {"8000"}
    assert re.findall(r"TOWPATH_ADMIN_PORT=(\d+)", (ROOT / "README.md").read_text()) == [
        str(ServiceSettings.model_fields["admin_port"].default + 1)
    ]


def test_not_yet_in_the_readme_is_true() -> None:
    """The entry that code can contradict: bindings for single groups."""
    missing = _part("README.md", "Not yet")
    sources = "\n".join(file.read_text() for file in (ROOT / "services/gateway/src").rglob("*.py"))
    assert "exactly the groups of a gateway" in missing
    assert '"group.*"' in sources, "the inbox is bound to all groups"
