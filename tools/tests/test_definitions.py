"""The permissions of accounts, compared with what the programs declare, bind and publish."""

import re
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.forwarding.revoking import LOG, MARKER
from towpath.gateway.inbox.queue import inbox
from towpath.protocol.operators import ASK_ALL, ASKER, ask_key, drain_key, report_key
from towpath.protocol.orders import Status
from towpath.protocol.revocations import Kind
from towpath.protocol.routes import (
    COMMANDS,
    EVENTS,
    EVERYONE,
    EXCHANGES,
    PROBE,
    PUSH,
    SERVICE_ALIVE,
    SERVICE_REPLICA,
    SESSION_ALIVE,
    SESSION_ENDED,
    SESSION_STARTED,
    again_exchange,
    command_key,
    connection_key,
    control_key,
    dead_queue,
    encode_word,
    group_key,
    user_key,
)
from towpath.servicekit.broker.interface import Binding
from towpath.servicekit.broker.rabbitmq.declaring import log_arguments
from towpath.servicekit.installed import installed_services
from towpath.servicekit.service import Service, topology
from towpath.tools import broker_setup, definitions
from towpath.tools.broker_setup import Wanted
from towpath.tools.definitions import Account, BadAccount

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final[list[Service[Any]]] = [one.definition() for one in installed_services()]
OPERATORS: Final = definitions.operators(service.domain for service in SERVICES)
PROBE_WORD: Final = "probe-0123456789abcdef"

#: Ids as they may be in tokens: anything that can be encoded.
ids = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
gateway_ids = st.from_regex(r"[A-Za-z0-9_:-]{1,64}", fullmatch=True)


def may(account: Account, right: str, name: str) -> bool:
    """As RabbitMQ decides: the pattern is searched in the name."""
    return re.search(getattr(account, right), name) is not None


def may_publish(account: Account, exchange: str, key: str) -> bool:
    # Without a row every key is allowed.
    write, _ = account.topics.get(exchange, ("", ""))
    return may(account, "write", exchange) and re.search(write, key) is not None


def may_bind(account: Account, queue: str, binding: Binding) -> bool:
    _, read = account.topics.get(binding.exchange, ("", ""))
    return (
        may(account, "write", queue)
        and may(account, "read", binding.exchange)
        and re.search(read, binding.routing_key) is not None
    )


def matches(binding: Binding, key: str) -> bool:
    """Whether a binding of the push exchange takes a key."""
    pattern = re.escape(binding.routing_key).replace(r"\*", r"[^.]+").replace(r"\.\#", r"(\..*)?")
    return binding.exchange == PUSH and re.fullmatch(pattern, key) is not None


def account_of(service: Service[Any]) -> Account:
    return definitions.service(service.name, service.domain, service.events, service.publishes)


def may_own(account: Account, queue: str) -> bool:
    return all(may(account, right, queue) for right in ("configure", "write", "read"))


# A program's own work is allowed


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_may_have_its_exchanges_queues_and_bindings(service: Service[Any]) -> None:
    account, wanted = account_of(service), topology(service, 1000)
    for exchange in wanted.exchanges:
        assert exchange.name in EXCHANGES or may(account, "configure", exchange.name)
    for queue in wanted.queues:
        assert may_own(account, queue.name)
        # RabbitMQ asks for both when it makes a queue with a dead-letter exchange.
        assert queue.dead_letter_exchange is None or may(account, "write", queue.dead_letter_exchange)
        for binding in queue.bindings:
            assert may_bind(account, queue.name, binding), binding
        for binding in queue.verified:
            assert may_publish(account, binding.exchange, binding.routing_key)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_may_have_its_inboxes(service: Service[Any]) -> None:
    account = account_of(service)
    for name, event in (
        ("owners", SERVICE_ALIVE),
        ("departures", SESSION_ENDED),
        ("replicas", SERVICE_REPLICA),
    ):
        queue = f"{service.name}.{name}.0123456789ab"
        assert may_own(account, queue)
        assert may_bind(account, queue, Binding(EVENTS, event))


@given(user=ids, group=ids, gateway=gateway_ids)
def test_a_service_may_publish_to_users_its_groups_and_everyone(user: str, group: str, gateway: str) -> None:
    for service in SERVICES:
        account = account_of(service)
        keys = [user_key(user), group_key(f"{service.domain}:{group}"), control_key(user), EVERYONE]
        assert all(may_publish(account, PUSH, key) for key in [*keys, connection_key(gateway)])
        events = [f"{service.domain}.done", f"{service.domain}.room.opened", SERVICE_ALIVE, SERVICE_REPLICA]
        events += service.publishes
        assert all(may_publish(account, EVENTS, key) for key in events)


@given(user=ids, gateway=gateway_ids)
def test_a_gateway_may_have_its_inbox_and_probe_it(user: str, gateway: str) -> None:
    account, wanted = definitions.gateway(), inbox(gateway)
    queue = f"{wanted.name}.0123456789ab"
    assert may_own(account, queue)
    for binding in (*wanted.bindings, Binding(PUSH, f"*.{encode_word(user)}")):
        assert may_bind(account, queue, binding), binding
    probes = [
        f"{kind}.{PROBE_WORD}" for kind in (EVERYONE, connection_key(gateway), "user", "group", "control")
    ]
    assert all(may_publish(account, PUSH, key) for key in [*probes, f"{PROBE}.{encode_word(user)}"])


def test_gateways_and_operators_may_read_the_log_of_revocations() -> None:
    for account in (definitions.gateway(), OPERATORS):
        assert may(account, "read", LOG.name)
        assert may_publish(account, MARKER.exchange, MARKER.routing_key)
        assert not may(account, "configure", LOG.name)


def test_the_log_of_revocations_is_defined_as_gateways_declare_it() -> None:
    document = definitions.render([], {})
    [queue], [binding] = document["queues"], document["bindings"]
    assert (queue["name"], queue["arguments"]) == (LOG.name, log_arguments(LOG))
    assert [Binding(binding["source"], binding["routing_key"])] == LOG.bindings


def test_the_bytes_of_a_services_queues_are_bounded_and_of_no_others() -> None:
    [policy] = Wanted().render({})["parameters"]
    bounded = re.compile(policy["value"]["pattern"])
    for service in SERVICES:
        assert all(bounded.search(queue.name) for queue in topology(service, 1000).queues)
    others = [
        inbox("gateway-1").name,
        "backend.shop.orders",
        "ops-0123",
        LOG.name,
        "chat",
        "shop.chat.events",
    ]
    assert not any(bounded.search(name) for name in others)


@given(key=ids)
def test_a_gateway_may_send_every_command_and_session_event(key: str) -> None:
    account = definitions.gateway()
    assert all(may_publish(account, COMMANDS, command_key(domain, key)) for domain in ("chat", "a_b2"))
    sessions = (SESSION_STARTED, SESSION_ALIVE, SESSION_ENDED)
    assert all(may_publish(account, EVENTS, event) for event in sessions)


def test_a_program_may_check_its_permissions_at_the_start() -> None:
    """Else RabbitMQ would log an error at each start."""
    for account in (definitions.gateway(), *map(account_of, SERVICES)):
        assert all(may_publish(account, exchange, "proof") for exchange in EXCHANGES)


@given(user=ids)
def test_a_backend_may_publish_its_events_and_reach_users(user: str) -> None:
    account = definitions.backend("shop")
    assert all(may_publish(account, EVENTS, f"order.{status.value}") for status in Status)
    assert may_publish(account, PUSH, user_key(user))
    assert may_bind(account, "backend.shop.orders", Binding(EVENTS, "order.*"))


@given(user=ids)
def test_an_operator_may_replay_dead_letters_and_end_connections(user: str) -> None:
    account = OPERATORS
    for service in SERVICES:
        assert may(account, "read", dead_queue(service.name))
        assert may_publish(account, again_exchange(service.name), f"{service.name}.commands.0")
    assert may_publish(account, PUSH, control_key(user))
    assert all(may_publish(account, PUSH, kind.key) for kind in Kind)


@given(user=ids, group=ids, gateway=gateway_ids)
def test_an_operator_may_ask_and_drain_gateways_and_hear_their_reports(
    user: str, group: str, gateway: str
) -> None:
    asker = f"ops-{'0123456789abcdef'}"
    assert ASKER.fullmatch(asker)
    for key in (ASK_ALL, ask_key(gateway), drain_key(gateway)):
        assert may_publish(OPERATORS, PUSH, key)
        # Gateways of any version get it by the bindings that they have for their probes.
        assert any(matches(binding, key) for binding in inbox(gateway).bindings)
    assert may_publish(definitions.gateway(), PUSH, report_key(asker))
    assert may_own(OPERATORS, "ops.status.0123456789ab")
    tapped = [user_key(user), group_key(group), report_key(asker)]
    assert all(may_bind(OPERATORS, "ops.tap.0123456789ab", Binding(PUSH, key)) for key in tapped)
    announced = (SERVICE_ALIVE, SERVICE_REPLICA, SESSION_ALIVE)
    assert all(may_bind(OPERATORS, "ops.status.0123456789ab", Binding(EVENTS, key)) for key in announced)


def test_an_operator_may_tap_the_domains_of_services_alone() -> None:
    queue = "ops.tap.0123456789ab"
    for service in SERVICES:
        bindings = [Binding(COMMANDS, f"{service.domain}.7"), Binding(EVENTS, f"{service.domain}.#")]
        assert all(may_bind(OPERATORS, queue, binding) for binding in bindings)
    for key in ("session.#", "session.started", "service.#", "#", "*.paid", "proof.chat", "other.#"):
        assert not may_bind(OPERATORS, queue, Binding(EVENTS, key))
    for key in ("*", "#", "other.0", "*.0"):
        assert not may_bind(OPERATORS, queue, Binding(COMMANDS, key))
    for key in ("#", "user.*", "control.ana", "everyone.#", "*.ana", "connection.gw-1.#", "probe.ana"):
        assert not may_bind(OPERATORS, queue, Binding(PUSH, key))


# And no more


@given(user=ids, group=ids, gateway=gateway_ids)
def test_a_gateway_may_push_to_no_client(user: str, group: str, gateway: str) -> None:
    account = definitions.gateway()
    pushes = [group_key(group), control_key(user), EVERYONE, connection_key(gateway)]
    if not re.fullmatch("probe-[0-9a-f]+", user):
        pushes.append(user_key(user))
    allowed = [key for key in pushes if may_publish(account, PUSH, key)]
    assert [key for key in allowed if not re.search(r"\.probe-[0-9a-f]+$", key)] == []


@given(domain=st.sampled_from([service.domain for service in SERVICES]), word=ids)
def test_a_service_may_speak_for_no_other_domain(domain: str, word: str) -> None:
    for account in (account_of(service) for service in SERVICES if service.domain != domain):
        assert not may_publish(account, COMMANDS, command_key(domain, word))
        assert not may_publish(account, EVENTS, f"{domain}.done")
        assert not may_publish(account, PUSH, group_key(f"{domain}:{word}"))


def test_no_account_may_write_to_the_default_exchange_or_make_exchanges_of_the_contract() -> None:
    for account in Wanted().accounts():
        assert not may(account, "write", "amq.default")
        assert not any(may(account, "configure", name) for name in (*EXCHANGES, LOG.name))


def test_no_account_may_touch_the_queues_of_another() -> None:
    queues = {service.name: [queue.name for queue in topology(service, 1).queues] for service in SERVICES}
    queues["gateway"] = ["gateway.gw-1.0123456789ab"]
    queues["backend"] = ["backend.backend.orders"]
    for account in Wanted().accounts():
        for owner, names in queues.items():
            if owner == account.name:
                continue
            for name in names:
                rights = [right for right in ("configure", "write", "read") if may(account, right, name)]
                # Operators look at dead letters.
                assert rights == (["read"] if account.name == "ops" and name.endswith(".dead") else [])


def test_every_exchange_that_an_account_can_reach_has_topic_permissions() -> None:
    for account in Wanted().accounts():
        assert set(account.topics) == set(EXCHANGES)


def test_every_pattern_covers_the_whole_name() -> None:
    for account in Wanted().accounts():
        patterns = [account.configure, account.write, account.read]
        patterns += [pattern for pair in account.topics.values() for pattern in pair]
        assert [one for one in patterns if not (one.startswith("^") and one.endswith("$"))] == []
        # RabbitMQ expands `{vhost}` and the like in topic patterns.
        assert not any("{" in one for one in patterns)


# Names


@pytest.mark.parametrize("name", ["towpath", "backend", "amq", "gateway", "ops", "a.b", "a*", "", "x" * 65])
def test_a_service_of_such_a_name_gets_no_account(name: str) -> None:
    with pytest.raises(BadAccount):
        definitions.service(name, "domain")


@pytest.mark.parametrize("domain", ["session", "service", "proof", "Order", "order.paid", "", "a|b"])
def test_a_backend_gets_no_events_of_such_a_domain(domain: str) -> None:
    with pytest.raises(BadAccount):
        definitions.backend("shop", [domain])


def test_a_backend_kicks_and_revokes_only_if_it_is_said_so() -> None:
    plain, both = definitions.backend("shop"), definitions.backend("shop", kicks=True, revokes=True)
    for key in ("control.ana", "revoke.user", "revoke.token"):
        assert (may_publish(plain, PUSH, key), may_publish(both, PUSH, key)) == (False, True)
    assert not may_publish(both, PUSH, "revoke.issued_before")


# The file


def test_the_file_in_the_repository_is_what_is_generated() -> None:
    kept = (ROOT / "deploy/rabbitmq/definitions.json").read_text(encoding="utf-8")
    assert kept == broker_setup.public(Wanted()), "run `make docs`"


def test_no_login_succeeds_with_the_file_in_the_repository() -> None:
    users = definitions.render(Wanted().accounts(), {})["users"]
    assert {user["password_hash"] for user in users} == {""}
    assert {user["tags"] for user in users} == {""}


def test_a_password_hash_is_that_of_rabbitmq() -> None:
    """The example of RabbitMQ's documentation: salt 908D C60A, password test12."""
    import base64
    import hashlib

    salt = bytes.fromhex("908DC60A")
    example = base64.b64encode(salt + hashlib.sha256(salt + b"test12").digest()).decode()
    assert example == "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR"
    ours = base64.b64decode(definitions.password_hash("chat", "test12"))
    assert ours[4:] == hashlib.sha256(ours[:4] + b"test12").digest()
    assert definitions.password_hash("chat", "test12") == definitions.password_hash("chat", "test12")
    assert definitions.password_hash("chat", "test12") != definitions.password_hash("orders", "test12")
