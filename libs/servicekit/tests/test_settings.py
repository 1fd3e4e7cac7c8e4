"""Settings: a wrong one is named with its value and what to do, and a secret is never shown."""

import os
import re
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import Field

from towpath.servicekit.broker import connect
from towpath.servicekit.runtime.exit_status import ExitStatus
from towpath.servicekit.runtime.settings import BadSetting, BrokerSettings, ServiceSettings, Word, load
from towpath.testkit.processes import Processes
from towpath.testkit.weak_options import WEAK_BROKER_OPTIONS, WEAK_DATABASE_OPTIONS


class Strict(ServiceSettings):
    """Settings with one that must be given."""

    auth_secret: str = Field(min_length=32)
    api_key: int = 0


@pytest.fixture(autouse=True)
def no_settings_of_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("TOWPATH_"):
            monkeypatch.delenv(name)


def complaint(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> str:
    """The error for ``value``; empty when it is accepted."""
    monkeypatch.setenv(name, value)
    try:
        load(ServiceSettings)
    except BadSetting as bad:
        return str(bad)
    return ""


def test_without_any_setting_all_have_a_default() -> None:
    loaded = load(ServiceSettings)
    assert (loaded.amqp_url, loaded.admin_port) == ("amqp://guest:guest@127.0.0.1:5672/", 9090)
    assert loaded.database_url.startswith("sqlite+aiosqlite:///")


def test_a_setting_is_read_from_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_ADMIN_PORT", "0")
    monkeypatch.setenv("TOWPATH_PUBLISH_TIMEOUT", "2.5")
    monkeypatch.setenv("TOWPATH_UNHEARD_OF", "x")
    loaded = load(BrokerSettings)
    assert (loaded.admin_port, loaded.publish_timeout) == (0, 2.5)


# Spelling


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("TOWPATH_AMQP_URI", "TOWPATH_AMQP_URL"),
        ("TOWPATH_AMQPURL", "TOWPATH_AMQP_URL"),
        ("TOWPATH_AMQP_ULR", "TOWPATH_AMQP_URL"),
        ("TOWPATH_DATABASE_URI", "TOWPATH_DATABASE_URL"),
        ("TOWPATH_ADMIN_PROT", "TOWPATH_ADMIN_PORT"),
        ("TOWPATH_AUTH_SECRT", "TOWPATH_AUTH_SECRET"),
        ("TOWPATH_ALLOWED_ORIGIN", "TOWPATH_ALLOWED_ORIGINS"),
        ("towpath_loglevel", "TOWPATH_LOG_LEVEL"),
        ("TOWPATH_MAX_CONECTIONS", "TOWPATH_MAX_CONNECTIONS"),  # of another program, in a shared environment
    ],
)
def test_a_misspelt_variable_is_refused_with_the_right_name(
    monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv(written, "hunter2")
    with pytest.raises(BadSetting, match=f"^{written}: is not a setting; did you mean {meant}\\?$"):
        load(ServiceSettings)


@pytest.mark.parametrize(
    "name",
    [
        "TOWPATH_MAX_CONNECTIONS",  # the gateway's
        "TOWPATH_WEB_ROOT",
        "TOWPATH_RABBITMQ_SERVER",
        "TOWPATH_UNHEARD_OF",
        "TOWPATH_GATEWAY_SERVICE_HOST",  # added by Kubernetes for a service "towpath-gateway"
        "TOWPATH_GATEWAY_SERVICE_PORT_HTTP",
        "TOWPATH_GATEWAY_PORT",
        "TOWPATH_ADMIN_PORT_9090_TCP_ADDR",
        "TOWPATHS_AMQP_URI",
    ],
)
def test_unrelated_variables_and_those_of_kubernetes_are_ignored(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "tcp://10.0.0.1:80")
    load(ServiceSettings)


def test_a_setting_of_ones_own_may_be_like_another(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(ServiceSettings):
        amqp_uri: str = ""

    monkeypatch.setenv("TOWPATH_AMQP_URI", "mine")
    assert load(Mine).amqp_uri == "mine"


# Values

WRONG: Final = [
    ("TOWPATH_ADMIN_PORT", "abc", "valid integer"),
    ("TOWPATH_ADMIN_PORT", "", "valid integer"),
    ("TOWPATH_ADMIN_PORT", "70000", "less than or equal to 65535"),
    ("TOWPATH_ADMIN_PORT", "-1", "greater than or equal to 0"),
    ("TOWPATH_PUBLISH_TIMEOUT", "0", "greater than 0"),
    ("TOWPATH_PUBLISH_TIMEOUT", "nan", "less than or equal to 86400"),
    ("TOWPATH_DRAIN_TIMEOUT", "inf", "less than or equal to 86400"),
    ("TOWPATH_DRAIN_TIMEOUT", "1e9", "less than or equal to 86400"),
    ("TOWPATH_INBOX_RETENTION", "59", "greater than or equal to 60"),
    ("TOWPATH_INBOX_RETENTION", "inf", "finite"),
    ("TOWPATH_STREAM_RETENTION", "nan", "finite"),
    ("TOWPATH_PREFETCH", "1.5", "valid integer"),
    ("TOWPATH_LANE_MAX_BYTES", "1023", "greater than or equal to 1024"),
    ("TOWPATH_TRACE_RATIO", "1.1", "less than or equal to 1"),
    ("TOWPATH_LOG_LEVEL", "loud", "debug|info|warning|error"),
    ("TOWPATH_LOG_FORMAT", "xml", "json|console"),
]


@pytest.mark.parametrize(("name", "value", "remedy"), WRONG)
def test_a_wrong_value_is_reported_with_its_name_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    told = complaint(monkeypatch, name, value)
    assert told.startswith(f"{name}={value!r}: ")
    assert remedy in told
    assert "\n" not in told


def test_a_very_long_value_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(complaint(monkeypatch, "TOWPATH_LOG_LEVEL", "x" * 10_000)) < 300


def test_a_missing_setting_is_reported_as_missing() -> None:
    with pytest.raises(BadSetting, match=re.escape("TOWPATH_AUTH_SECRET: is required")):
        load(Strict)


def test_a_secret_that_is_too_short_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOWPATH_AUTH_SECRET", "hunter2")
    with pytest.raises(BadSetting) as bad:
        load(Strict)
    assert str(bad.value) == "TOWPATH_AUTH_SECRET: String should have at least 32 characters"
    monkeypatch.setenv("TOWPATH_AUTH_SECRET", "x" * 32)
    monkeypatch.setenv("TOWPATH_API_KEY", "hunter2")
    with pytest.raises(BadSetting) as bad:
        load(Strict)
    assert "hunter2" not in str(bad.value)


@pytest.mark.parametrize("name", ["AUTH_SECRET", "AMQP_URL", "DATABASE_URL", "OTLP_ENDPOINT", "ADMIN_HOST"])
@pytest.mark.parametrize(("before", "after"), [("", "\n"), ("", "\r\n"), (" ", ""), ("", "\t"), ("\n", "\n")])
def test_white_space_at_an_end_is_refused_and_said_so(
    monkeypatch: pytest.MonkeyPatch, name: str, before: str, after: str
) -> None:
    class WithSecret(ServiceSettings):
        auth_secret: Word | None = None

    values = {"AUTH_SECRET": "hunter2" * 8, "AMQP_URL": "amqp://a:hunter2@b/", "ADMIN_HOST": "127.0.0.1"}
    values |= {"DATABASE_URL": "postgresql://a:hunter2@db/x", "OTLP_ENDPOINT": "http://a:hunter2@b:4318"}
    monkeypatch.setenv(f"TOWPATH_{name}", values[name])
    load(WithSecret)
    monkeypatch.setenv(f"TOWPATH_{name}", before + values[name] + after)
    with pytest.raises(BadSetting) as bad:
        load(WithSecret)
    told = str(bad.value)
    assert told.startswith(f"TOWPATH_{name}")
    assert "begins or ends with white space" in told
    assert "\n" not in told
    assert "hunter2" not in told


# Addresses


@pytest.mark.parametrize(
    "url",
    [
        "amqp://127.0.0.1",
        "amqps://ana:secret@broker:5671/towpath",
        "amqp://[::1]:5672/",
        "amqp://ana:secret@one:5672,two:5673,three/towpath",
        "amqp://one, two ,[::1]:5672/",
        "memory://",
    ],
)
def test_a_broker_has_an_amqp_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert not complaint(monkeypatch, "TOWPATH_AMQP_URL", url)


BAD_BROKERS: Final = [
    "",
    "localhost",
    "localhost:5672",
    "http://ana:hunter2@broker/",
    "amqp://",
    "amqp:///towpath",
    "amqp://ana:hunter2@broker:abc/",
    "amqp://ana:hunter2@broker:99999/",
    "amqp://ana:hunter2@[::1",
    "amqp://ana:hunter2/3@broker/",
    "amqp://ana:hunter2@one,,three/",
    "amqp://ana:hunter2@one,/",
    "amqp://ana:hunter2@one,two:99999/",
    "amqp://ana:hunter2@one,http://two/",
]


@pytest.mark.parametrize("url", BAD_BROKERS)
def test_an_invalid_address_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    told = complaint(monkeypatch, "TOWPATH_AMQP_URL", url)
    assert told.startswith("TOWPATH_AMQP_URL: ")
    assert "hunter2" not in told


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///towpath.db", "sqlite+aiosqlite:///towpath.db"),
        ("sqlite:////var/lib/towpath.db", "sqlite+aiosqlite:////var/lib/towpath.db"),
        ("postgres://ana:secret@db/towpath", "postgresql+asyncpg://ana:secret@db/towpath"),
        (
            "postgresql://db:5432/towpath?ssl=verify-full",
            "postgresql+asyncpg://db:5432/towpath?ssl=verify-full",
        ),
        ("postgresql://db/towpath?ssl=disable", "postgresql+asyncpg://db/towpath?ssl=disable"),
        ("postgresql+asyncpg:///towpath?host=/run/pg", "postgresql+asyncpg:///towpath?host=/run/pg"),
    ],
)
def test_a_database_is_spoken_to_by_the_driver_that_is_there(
    monkeypatch: pytest.MonkeyPatch, url: str, driver: str
) -> None:
    monkeypatch.setenv("TOWPATH_DATABASE_URL", url)
    assert load(ServiceSettings).database_url == driver


BAD_DATABASES: Final = [
    ("", "must be sqlite:///file.db or postgresql://"),
    ("towpath.db", "must be sqlite:///file.db or postgresql://"),
    ("mysql://ana:hunter2@db/towpath", "must be sqlite:///file.db or postgresql://"),
    ("postgresql+psycopg://ana:hunter2@db/towpath", "must be sqlite:///file.db or postgresql://"),
    ("sqlite://", "names no file"),
    ("sqlite:///", "names no file"),
    ("sqlite:///?timeout=5", "names no file"),
    ("sqlite:///:memory:", "names no file"),
    ("postgresql://ana:hunter2@db:port/towpath", "must be sqlite:///file.db or postgresql://"),
]


@pytest.mark.parametrize("option", WEAK_DATABASE_OPTIONS)
def test_a_database_whose_server_would_not_be_verified_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    told = complaint(monkeypatch, "TOWPATH_DATABASE_URL", f"postgresql://ana:hunter2@db/towpath?{option}")
    assert re.match(
        r"TOWPATH_DATABASE_URL: (must say ssl=verify-full|has an option about certificates)", told
    )
    assert "hunter2" not in told
    assert "\n" not in told


@pytest.mark.parametrize("option", WEAK_BROKER_OPTIONS)
def test_a_broker_whose_certificate_would_not_be_verified_is_refused(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    told = complaint(monkeypatch, "TOWPATH_AMQP_URL", f"amqps://ana:hunter2@one,two/towpath?{option}")
    assert re.match(r"TOWPATH_AMQP_URL: has an (option about verification|unknown option)", told)
    assert "hunter2" not in told
    assert "\n" not in told


@pytest.mark.parametrize("option", ["cafile=/ca", "capath=/etc/ssl", "certfile=/own", "keyfile=/own"])
def test_certificates_in_an_unencrypted_address_of_a_broker_are_refused(
    monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    assert not complaint(monkeypatch, "TOWPATH_AMQP_URL", f"amqps://broker/?{option}")
    told = complaint(monkeypatch, "TOWPATH_AMQP_URL", f"amqp://broker/?{option}")
    assert told == "TOWPATH_AMQP_URL: names certificate files, but is not encrypted: use amqps://"


def test_a_part_of_a_password_behind_a_question_mark_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("amqp://ana:1?hunter2=x@broker/", "amqps://broker/?hunter2", "amqps://broker/?hunter2=1"):
        told = complaint(monkeypatch, "TOWPATH_AMQP_URL", url)
        assert told.startswith("TOWPATH_AMQP_URL: ")
        assert "hunter2" not in told


@pytest.mark.parametrize("program", ["towpath-gateway", "towpath-orders"])
async def test_a_weak_option_ends_a_program_with_status_78_and_one_line(
    processes: Processes, program: str
) -> None:
    for name, url in (
        ("amqp_url", "amqps://ana:hunter2@broker/?no_verify_ssl=1"),
        ("database_url", "postgresql://ana:hunter2@db/towpath?ssl=require"),
    ):
        if program == "towpath-gateway" and name == "database_url":
            continue  # It has no database.
        process = processes.launch(program, **{name: url})
        assert await process.ended(timeout=60) == ExitStatus.BAD_SETTING
        assert len(process.output.splitlines()) == 1
        assert process.output.startswith(f"{program}: TOWPATH_{name.upper()}: ")
        assert "hunter2" not in process.output


@pytest.mark.parametrize(("url", "remedy"), BAD_DATABASES)
def test_a_database_that_cannot_be_is_refused_without_showing_it(
    monkeypatch: pytest.MonkeyPatch, url: str, remedy: str
) -> None:
    told = complaint(monkeypatch, "TOWPATH_DATABASE_URL", url)
    assert told.startswith("TOWPATH_DATABASE_URL: ")
    assert remedy in told
    assert "hunter2" not in told


@pytest.mark.parametrize(
    "url", ["collector:4318", "grpc://collector:4317", "http://", "http://ana:hunter2@[::1"]
)
def test_a_collector_has_an_http_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    told = complaint(monkeypatch, "TOWPATH_OTLP_ENDPOINT", url)
    assert told.startswith("TOWPATH_OTLP_ENDPOINT: ")
    assert "hunter2" not in told
    assert not complaint(monkeypatch, "TOWPATH_OTLP_ENDPOINT", "https://collector:4318")


noise = st.text(st.sampled_from("/:@?#[]%. \\"), max_size=4)


@given(st.tuples(noise, noise, noise, noise), st.sampled_from(["AMQP_URL", "DATABASE_URL", "OTLP_ENDPOINT"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_password_is_never_shown_however_the_address_is_broken(
    monkeypatch: pytest.MonkeyPatch, noise: tuple[str, ...], name: str
) -> None:
    a, b, c, d = noise
    for scheme in ("amqp", "postgresql", "http", "ftp"):
        told = complaint(monkeypatch, f"TOWPATH_{name}", f"{scheme}:{a}//ana{b}:hunter2{c}@host{d}")
        assert "hunter2" not in told
    monkeypatch.delenv(f"TOWPATH_{name}")


def test_the_memory_broker_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(BadSetting, match=r"TOWPATH_AMQP_URL='memory://': .*towpath dev"):
        connect(BrokerSettings(amqp_url="memory://"), "orders")


def test_settings_cannot_be_changed_afterwards() -> None:
    loaded: Any = load(BrokerSettings)
    with pytest.raises(ValueError, match="frozen"):
        loaded.admin_port = 1
