"""API keys: rights of each, no secret at rest, changes without a restart."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from services.ingress.tests.running import Consumer, IngressUnderTest
from towpath.ingress.keys import BadKeys, Key, KeyRing, Keys, make
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting
from towpath.testkit.eventually import eventually

PAID = {"action": "order.paid", "data": {}}


def a_key(*events: str) -> Key:
    return Key(name="shop", sha256="0" * 64, events=events)


@pytest.mark.parametrize(
    ("pattern", "allowed", "refused"),
    [
        ("order.paid", ["order.paid"], ["order.paid.late", "order.pai", "order.shipped"]),
        ("order.*", ["order.paid", "order.item.added"], ["orders.paid", "stock.low"]),
        ("order.item.*", ["order.item.added"], ["order.paid", "order.items.added"]),
        ("*", ["order.paid", "a.b.c.d"], ["session.started", "service.alive", "proof.x"]),
    ],
)
def test_a_pattern_allows_these_events_and_no_others(
    pattern: str, allowed: list[str], refused: list[str]
) -> None:
    key = a_key(pattern)
    assert [action for action in allowed if not key.may_publish(action)] == []
    assert [action for action in refused if key.may_publish(action)] == []


@pytest.mark.parametrize("pattern", ["", "order", "*.paid", "order.**", "Order.*", "order.*.x", "session.*"])
def test_other_patterns_are_refused_when_the_key_is_made(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(BadKeys, match=r"pattern|only gateways"):
        make(tmp_path / "keys.json", "shop", (pattern,), push=False)


def test_the_file_has_no_secret_and_is_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = make(file, "shop", ("order.*",), push=False)
    name, secret = made.split(".")
    assert name == "shop"
    assert len(secret) == 43
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_keys_of_one_name_both_count(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old, new = make(file, "shop", ("order.*",), push=False), make(file, "shop", (), push=True)
    keys = Keys.read(file)
    assert [(found.events, found.push) for one in (old, new) if (found := keys.find(one))] == [
        (("order.*",), False),
        ((), True),
    ]


def test_a_key_that_is_not_exactly_one_of_the_file_is_unknown(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = make(file, "shop", ("order.*",), push=False)
    other = make(file, "depot", ("stock.*",), push=False)
    keys = Keys.read(file)
    secret = made.partition(".")[2]
    for wrong in (
        "",
        ".",
        "shop",
        "shop.",
        f"depot.{secret}",
        f".{secret}",
        made[:-1],
        made + "a",
        made + "." * 9000,
    ):
        assert keys.find(wrong) is None, wrong
    assert keys.find(other) is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "the file: Invalid JSON"),
        ("[]", "the file: Input should be an object"),
        ('{"keys": [{"name": "a b", "sha256": ""}]}', r"keys\.0\.name"),
        ('{"keys": [{"name": "shop", "secret": "in plain text"}]}', r"keys\.0\.sha256"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_program_with_the_place(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "keys.json"
    file.write_text(text)
    with pytest.raises(BadSetting, match=rf"TOWPATH_API_KEYS=.*{problem}") as raised:
        KeyRing(file)
    assert "plain text" not in str(raised.value)


def test_the_program_makes_a_key_and_prints_it_once(tmp_path: Path) -> None:
    program, file = Path(sys.executable).parent / "towpath-ingress", tmp_path / "keys.json"
    command = [
        str(program),
        "key",
        "shop",
        "--events",
        "order.*",
        "order.paid",
        "--push",
        "--file",
        str(file),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    found = Keys.read(file).find(ran.stdout.strip())
    assert found is not None
    assert (found.events, found.push) == (("order.*", "order.paid"), True)
    wrong = subprocess.run(
        [program, "key", "shop", "--file", file], capture_output=True, text=True, check=False, timeout=60
    )
    assert (wrong.returncode, wrong.stdout) == (ExitStatus.BAD_SETTING, "")
    assert (
        wrong.stderr == "towpath-ingress: the key would have no right: give it --events order.* or --push\n"
    )


async def test_a_key_publishes_its_events_and_no_others(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    key = ingress.make_key("depot", "order.packed", "stock.*")
    await eventually(lambda: _is_known(ingress, key))
    answer = await ingress.events(PAID, key=key)
    assert answer.status_code == 403
    assert answer.json()["detail"] == (
        "This API key may not publish order.paid; its events: order.packed, stock.*."
    )
    # However the action is written.
    spelled = b'{"action":"order.packed","data":{},"action":"order\\u002epaid"}'
    assert (await ingress.events(spelled, key=key)).status_code == 403
    push = {"user_id": "ana", "envelope": PAID}
    assert (await ingress.post("/v1/push", push, key=key)).status_code == 403
    assert await consumer.nothing()
    mixed = await ingress.events([PAID, {"action": "order.packed", "data": {}}], key=key)
    assert [one["status"] for one in mixed.json()["results"]] == ["forbidden", "accepted"]
    _, delivery = await consumer.next()
    assert delivery.app_id == "depot"


async def test_a_new_key_counts_and_a_removed_one_does_not_without_a_restart(
    ingress: IngressUnderTest, consumer: Consumer
) -> None:
    key = ingress.make_key("depot", "order.*")
    await eventually(lambda: _is_known(ingress, key))
    content = json.loads(ingress.keys.read_text())
    ingress.keys.write_text("{ not a file of keys")
    assert (await ingress.events(PAID, key=key)).status_code == 202
    content["keys"] = [one for one in content["keys"] if one["name"] != "depot"]
    ingress.keys.write_text(json.dumps(content))

    async def is_gone() -> bool:
        return (await ingress.events(PAID, key=key)).status_code == 401

    await eventually(is_gone)
    assert (await ingress.events(PAID)).status_code == 202


async def _is_known(ingress: IngressUnderTest, key: str) -> bool:
    return (await ingress.events({}, key=key)).status_code != 401
