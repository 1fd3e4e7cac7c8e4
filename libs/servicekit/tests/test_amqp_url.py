"""One URL, several hosts."""

import pytest
from yarl import URL

from towpath.servicekit.runtime.amqp_url import hosts, shown, with_files


def test_each_host_has_all_but_the_others() -> None:
    assert [str(url) for url in hosts("amqps://ana:p%40ss@one:5672,two:5673,three/v%2Fw?cafile=/ca")] == [
        "amqps://ana:p%40ss@one:5672/v%2Fw?cafile=/ca",
        "amqps://ana:p%40ss@two:5673/v%2Fw?cafile=/ca",
        "amqps://ana:p%40ss@three/v%2Fw?cafile=/ca",
    ]


def test_a_single_host_is_unchanged() -> None:
    assert hosts("amqp://ana:secret@broker:5672/") == [URL("amqp://ana:secret@broker:5672/")]
    assert hosts("memory://") == [URL("memory://")]


def test_a_password_may_hold_commas() -> None:
    assert [url.password for url in hosts("amqp://ana:a,b@one,two/")] == ["a,b", "a,b"]


def test_hosts_without_user_or_path_and_with_space_around_are_understood() -> None:
    assert [url.host for url in hosts("amqp://one, two,[::1]:5672")] == ["one", "two", "::1"]


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("one,two", "must be amqp://"),
        ("amqp://", "names no host"),
        ("amqp://one,,three/", "host 2 of 3: names no host"),
        ("amqp://one,two:port/", "host 2 of 2: is not an address"),
        ("amqp://one:99999", "is not an address"),
        ("amqp://one/,amqp://two/", "is several addresses"),
    ],
)
def test_an_invalid_address_is_refused_with_the_position_of_the_error(url: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        hosts(url)


def test_files_become_options_of_each_host() -> None:
    url = with_files("amqps://ana:p%40ss@one,two/v?auth=plain", ca="/my ca&.pem", certificate="/c", key="/k")
    for host in hosts(url):
        assert dict(host.query) == {
            "auth": "plain",
            "cafile": "/my ca&.pem",
            "certfile": "/c",
            "keyfile": "/k",
        }
        assert host.password == "p@ss"
    assert with_files("amqp://one", ca=None, certificate=None, key=None) == "amqp://one"
    assert with_files("amqps://one", ca="/ca", certificate=None, key=None) == "amqps://one?cafile=%2Fca"


def test_user_password_and_options_are_hidden() -> None:
    assert shown(URL("amqp://ana:secret@one:5672/v?password=secret")) == "amqp://one:5672/v"
