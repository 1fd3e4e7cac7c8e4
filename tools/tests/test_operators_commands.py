"""The parts of operators' commands without I/O: findings in their order, pictures, and what a tap leaves out."""

import json
import time
from typing import Any, Final

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from towpath.protocol.envelope import make
from towpath.protocol.operators import ConnectionReport, GatewayReport
from towpath.protocol.routes import PARTITIONS, PUSH, command_queue, dead_queue, events_queue, retry_queue
from towpath.servicekit.broker.interface import Found, QueueCounts
from towpath.testkit.tokens import SECRET
from towpath.tools.ops import findings, picture, rolling, screen, tap, who
from towpath.tools.ops.findings import Finding, Kind
from towpath.tools.ops.listening import Heard, Programs
from towpath.tools.ops.picture import Picture

NOW: Final = Heard(0.0, time.monotonic())
STRONG: Final = "9wQx2pL0vR7tKcZ4mB8nHs6yJ1dF3gAe"


def a_report(name: str = "gw-1", **fields: Any) -> GatewayReport:
    defaults = {"connections_max": 10_000, "connections_wanted": 10_000, "descriptors": 12_000}
    return GatewayReport(name, "run-1", "0.1.0", 0, 1.0, **(defaults | fields))


def queues_of(service: str, *, consumers: int = 1, parked: int = 0) -> dict[str, QueueCounts]:
    names = [*(command_queue(service, number) for number in range(PARTITIONS)), events_queue(service)]
    held = {name: QueueCounts(0, consumers) for name in names}
    return held | {dead_queue(service): QueueCounts(parked, 0), retry_queue(service, "5s"): QueueCounts(3, 0)}


def a_picture(
    *reports: GatewayReport,
    queues: dict[str, QueueCounts] | None = None,
    replicas: dict[str, frozenset[str]] | None = None,
    is_blocked: bool = False,
) -> Picture:
    """Of orders, and of what announces itself."""
    programs = Programs(
        reports={(one.gateway_id, one.incarnation): (one, NOW) for one in reports},
        services={("orders", "order"): NOW},
        replicas={("orders", name): (held, NOW) for name, held in (replicas or {}).items()},
    )
    found = Found(frozenset(), queues_of("orders") if queues is None else queues)
    return picture.draw("RabbitMQ 4.0.5", programs, found, ["orders"], is_blocked=is_blocked)


def checks(found: Any) -> list[str]:
    return [one.kind.name for one in findings.ordered(found)]


# Findings


def test_a_healthy_picture_has_no_findings() -> None:
    assert list(findings.of_picture(a_picture(a_report()), ["orders"])) == []


@pytest.mark.parametrize(
    ("seen", "first", "text"),
    [
        (a_picture(is_blocked=True), "BLOCKED", "a memory or disk alarm"),
        (a_picture(), "GATEWAY", "no gateway answers"),
        (a_picture(a_report(failing=["broker"])), "NOT_READY", "gateway gw-1 is not ready: broker"),
        (a_picture(a_report(development=True)), "SECRET", "development mode"),
        (a_picture(a_report(connections_max=700)), "DESCRIPTORS", "enough for 700 connections of the 10000"),
        (a_picture(a_report(), queues=queues_of("orders", consumers=0)), "SERVICE", "orders does not run"),
        (
            a_picture(
                a_report(), queues=queues_of("orders") | {command_queue("orders", 3): QueueCounts(7, 0)}
            ),
            "SERVICE",
            "no replica consumes 3",
        ),
        (a_picture(a_report(), queues={}), "SERVICE", "has never run on this broker"),
        (
            a_picture(a_report(), queues=queues_of("orders", parked=2)),
            "PARKED",
            "2 messages of orders are parked",
        ),
    ],
)
def test_the_broken_part_is_the_first_finding(seen: Picture, first: str, text: str) -> None:
    found = findings.ordered(findings.of_picture(seen, ["orders"]))
    assert found[0].kind.name == first
    assert text in found[0].problem
    assert found[0].remedy


def test_two_gateways_of_one_id_are_named() -> None:
    twins = [a_report(), GatewayReport("gw-1", "run-2", "0.1.0", 0, 1.0)]
    assert "2 gateways have the id gw-1" in next(iter(findings.of_picture(a_picture(*twins), []))).problem


def test_a_domain_with_two_owners_is_named() -> None:
    programs = Programs(services={("orders", "order"): NOW, ("other", "order"): NOW})
    found = Found(frozenset(), queues_of("orders") | queues_of("other"))
    seen = picture.draw("", programs, found, [], is_blocked=True)
    assert any("the domain order has 2 owners" in one.problem for one in findings.of_picture(seen, []))


@given(st.permutations(list(Kind)), st.lists(st.booleans(), min_size=len(Kind), max_size=len(Kind)))
def test_errors_come_before_advice_and_causes_before_what_follows(
    kinds: list[Kind], errors: list[bool]
) -> None:
    given_ = [Finding(kind, "p", "r", error) for kind, error in zip(kinds, errors, strict=True)]
    found = findings.ordered(given_)
    assert [one.is_error for one in found] == sorted((one.is_error for one in found), reverse=True)
    for part in (True, False):
        of_part = [one.kind for one in found if one.is_error is part]
        assert of_part == sorted(of_part)


@pytest.mark.parametrize(
    ("product", "version", "is_fine"),
    [
        ("RabbitMQ", "3.10.0", True),
        ("RabbitMQ", "4.0.5", True),
        ("RabbitMQ", "4.1.0-rc.1", True),
        ("", "", True),  # by TLS it is not known
        ("RabbitMQ", "3.9.29", False),
        ("RabbitMQ", "2.8", False),
        ("RabbitMQ", "4.3.0", False),
        ("qpid-cpp", "1.39", False),
    ],
)
def test_versions_that_do_not_work_are_named(product: str, version: str, is_fine: bool) -> None:
    assert (not list(findings.of_version(product, version))) is is_fine


@pytest.mark.parametrize(
    ("environment", "kinds"),
    [
        ({}, []),
        ({"TOWPATH_AUTH_SECRET": STRONG}, []),
        ({"TOWPATH_AUTH_SECRET": SECRET}, ["SECRET"]),
        ({"TOWPATH_AUTH_SECRET": "short"}, ["SECRET"]),
        ({"TOWPATH_DEVELOPMENT": "1", "TOWPATH_AUTH_SECRET": SECRET}, ["SECRET"]),
        ({"TOWPATH_DEVELOPMENT": "0", "TOWPATH_AUTH_SECRET": STRONG}, []),
        ({"TOWPATH_AUTH_SECRET": STRONG, "TOWPATH_AUTH_SECRET_PREVIOUS": SECRET}, ["SECRET"]),
        ({"TOWPATH_AMQP_URI": "x"}, ["SETTING"]),
        ({"TOWPATH_SOMETHING_ELSE": "x", "PATH": "/bin"}, ["UNKNOWN_SETTING"]),
    ],
)
def test_settings_and_secrets_of_the_environment(environment: dict[str, str], kinds: list[str]) -> None:
    found = list(findings.of_environment(environment))
    assert checks(found) == kinds
    assert not any(value in str(found) for value in (SECRET, STRONG, "short'"))


def test_few_descriptors_of_this_machine_and_large_messages_are_named() -> None:
    assert checks(findings.of_limits(256, {}, "4.0.5")) == ["DESCRIPTORS"]
    assert checks(findings.of_limits(None, {}, "4.0.5")) == []
    large = {"TOWPATH_MESSAGE_MAX_BYTES": str(32 * 1024 * 1024)}
    assert checks(findings.of_limits(65_536, large, "4.0.5")) == ["LIMIT"]
    assert checks(findings.of_limits(65_536, large, "3.13.7")) == []


def test_a_clock_that_differs_is_named_and_if_all_do_it_is_that_of_this_machine() -> None:
    off = Heard(-90.0, 0.0)
    one = Programs(gateways={("gw-1", "a"): NOW}, services={("orders", "order"): off})
    [found] = findings.of_clocks(one)
    assert "the clock of service orders is 90 s behind that of this machine" in found.problem
    every = Programs(gateways={("gw-1", "a"): off}, services={("orders", "order"): off})
    [found] = findings.of_clocks(every)
    assert "the clock of this machine is 90 s ahead of those of all programs" in found.problem
    assert list(findings.of_clocks(Programs(gateways={("gw-1", "a"): Heard(2.0, 0.0)}))) == []


# Pictures


def test_a_picture_says_who_holds_which_partition_and_what_waits() -> None:
    held = {
        "a": frozenset(command_queue("orders", number) for number in range(4)),
        "b": frozenset(
            {*(command_queue("orders", number) for number in range(4, 8)), events_queue("orders")}
        ),
    }
    queues = queues_of("orders", parked=5) | {command_queue("orders", 6): QueueCounts(9, 1)}
    [orders] = a_picture(a_report(), queues=queues, replicas=held).services
    assert orders.replicas == {"a": 4, "b": 5}
    assert {queue.name: queue.holders[0] for queue in orders.queues} == {
        **dict.fromkeys("0123", "a"),
        **dict.fromkeys("4567", "b"),
        "events": "b",
    }
    assert (orders.waiting, orders.retrying, orders.parked, orders.unheld) == (9, 3, 5, [])


def test_programs_that_fell_silent_are_forgotten() -> None:
    old = Heard(0.0, 0.0)
    programs = Programs(services={("orders", "order"): old, ("chat", "chat"): Heard(0.0, 100.0)})
    programs.forget_silent(101.0)
    assert programs.services.keys() == {("chat", "chat")}


# Rolling restarts


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        (rolling.Wanted("orders"), "--each 'docker restart towpath-orders-1'"),
        (rolling.Wanted("", ["true"]), "part ''"),
        (rolling.Wanted("o" * 65, ["true"]), "must be gateway, or a service"),
        (rolling.Wanted("orders", ["true", " "]), "--each ' ': must be a command"),
    ],
)
def test_a_rolling_restart_without_a_part_or_a_command_is_refused(wanted: rolling.Wanted, text: str) -> None:
    with pytest.raises(rolling.BadRolling) as problem:
        wanted.check()
    assert text in str(problem.value)
    assert problem.value.status == 2
    rolling.Wanted("gateway").check()


def test_the_replicas_of_a_service_work_if_each_has_its_share_and_all_queues_are_held() -> None:
    names = [*(command_queue("orders", number) for number in range(PARTITIONS)), events_queue("orders")]
    half, rest = frozenset(names[:4]), frozenset(names[4:])

    def state(replicas: dict[str, frozenset[str]], **seen: Any) -> rolling.State:
        return rolling.state_of(a_picture(a_report(), replicas=replicas, **seen), "orders")

    fine = state({"a": half, "b": rest})
    assert (fine.names(), fine.problem) == (["a", "b"], None)
    assert state({"a": half | rest, "b": frozenset()}).problem == "1 of 2 replicas hold no partition yet"
    assert state({"a": half}).problem == "no replica says that it holds 4, 5, 6, 7, events"
    unheld = {**queues_of("orders"), command_queue("orders", 3): QueueCounts(0, 0)}
    assert state({"a": half, "b": rest}, queues=unheld).problem == "no replica consumes 3"
    assert state({"a": half, "b": rest}, is_blocked=True).problem == "RabbitMQ accepts no messages"
    # More replicas than queues: those without one wait to take over.
    many = {name: frozenset([name]) for name in names} | {"idle": frozenset()}
    assert state(many).problem is None
    assert rolling.state_of(a_picture(a_report()), "weather").problem == "has never run on this broker"


def test_gateways_work_if_each_is_ready_and_a_new_run_of_one_is_another() -> None:
    first = rolling.state_of(a_picture(a_report("gw-1"), a_report("gw-2")), "gateway")
    assert (first.names(), first.problem) == (["gw-1", "gw-2"], None)
    again = GatewayReport("gw-2", "run-2", "0.1.0", 0, 1.0, failing=["broker"])
    second = rolling.state_of(a_picture(a_report("gw-1"), again), "gateway")
    assert second.problem == "gw-2 is not ready: broker"
    assert first.names(first.runs - second.runs) == ["gw-2"]


# Who


@pytest.mark.parametrize(
    ("connection", "group", "text"),
    [
        (ConnectionReport("c-1", "ana"), "", "gw-1: c-1 hears it"),
        (ConnectionReport("c-1", "ana", closing=True), "", "it is closing"),
        (ConnectionReport("c-1", "ana", 2048), "", "behind 2 KiB"),
        (ConnectionReport("c-1", "ana"), "chat:harbour", "has not subscribed it to chat:harbour"),
        (ConnectionReport("c-1", "ana", in_group=True), "chat:harbour", "gw-1: c-1 hears it"),
    ],
)
def test_each_reason_not_to_hear_a_push_is_named(connection: ConnectionReport, group: str, text: str) -> None:
    report = a_report(of_user=[connection], of_user_count=1)
    [(_, line)] = who.explained([report], [], "ana", group)
    assert text in line
    assert who.hears(connection, group) is (" hears it" in line)


# Taps


class Seen:
    """A message that a tap got."""

    exchange, routing_key = PUSH, "user.ana"

    def __init__(self, body: bytes) -> None:
        self.body = body


#: Texts with a mark, also as names of fields; each must be gone.
marked = st.text().map("☠".__add__)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | marked,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(marked, inner, max_size=5),
    max_leaves=20,
)


@given(json_values)
def test_the_shape_of_data_has_no_value_of_it(value: Any) -> None:
    assert "☠" not in json.dumps(tap.shape(value), ensure_ascii=False)


@given(
    st.text(min_size=1), st.dictionaries(st.from_regex("[a-z]{1,8}", fullmatch=True), st.text(), min_size=1)
)
@example("0", {f"{letter}{other}": "" for letter in "abcdefgh" for other in "abcdefgh"})
def test_a_tap_shows_fields_and_no_texts(secret: str, data: dict[str, str]) -> None:
    body = make("chat.message", dict.fromkeys(data, f"☠{secret}")).to_json()
    [shown] = tap.envelopes(Seen(body), show_data=False)  # type: ignore[arg-type]  # as much of a Delivery as a tap reads
    first = list(data)[: tap.MEMBERS_SHOWN]
    left_out = len(data) - len(first)
    assert list(shown["data"]) == [*first, *(["…"] if left_out else [])]
    assert not left_out or shown["data"]["…"] == f"{left_out} more"
    assert "☠" not in json.dumps(shown, ensure_ascii=False)
    [shown] = tap.envelopes(Seen(body), show_data=True)  # type: ignore[arg-type]  # as much of a Delivery as a tap reads
    assert all(text == f"☠{secret}" for text in shown["data"].values())


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_a_tap_survives_every_body(body: bytes) -> None:
    for shown in tap.envelopes(Seen(body), show_data=False):  # type: ignore[arg-type]  # as much of a Delivery as a tap reads
        json.dumps(shown)


def test_a_tap_shows_the_code_of_an_error() -> None:
    body = make("error", {"code": "busy", "message": "a text", "retryable": True}).to_json()
    [shown] = tap.envelopes(Seen(body), show_data=False)  # type: ignore[arg-type]  # as much of a Delivery as a tap reads
    assert shown["code"] == "busy"
    assert shown["data"]["message"] == "text of 6"


@pytest.mark.parametrize(
    "text",
    ["", "ana", "user:", "user:a\tb", "group:", "domain:", "domain:nothing", "everyone", "x:y", "user"],
)
def test_a_target_that_cannot_be_tapped_is_refused(text: str) -> None:
    with pytest.raises(tap.BadTarget):
        tap.Target.of(text)


# The screen


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59, "59 s"), (61, "1 min 1 s"), (3700, "1 h 1 min"), (90_000, "1 d 1 h")],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert screen.duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (2048, "2 KiB"), (3 << 20, "3 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_for_people(count: float, text: str) -> None:
    assert screen.size(count) == text
