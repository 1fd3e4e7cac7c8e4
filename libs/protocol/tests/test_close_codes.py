"""Close codes: old clients obey new ones by their range."""

import pytest

from towpath.protocol.close_codes import CloseCode, should_reconnect


def test_the_codes_are_those_of_the_contract() -> None:
    assert {int(code) for code in CloseCode} == {
        1003, 1009, 1012, 1013, 4001, 4002, 4003, 4005, 4500, 4502, 4503,
    }  # fmt: skip


@pytest.mark.parametrize("code", [None, 1001, 1006, 1011, 1012, 1013, 4000, 4001, 4002, 4003, 4005, 4499])
def test_a_client_reconnects_after_these_codes(code: int | None) -> None:
    assert should_reconnect(code)


@pytest.mark.parametrize("code", [1000, 1003, 1009, 4500, 4502, 4503, 4999])
def test_a_client_does_not_reconnect_after_these_codes(code: int) -> None:
    assert not should_reconnect(code)


def test_a_client_reacts_to_an_unknown_close_code_by_its_range() -> None:
    assert all(should_reconnect(code) == (code < 4500) for code in range(4000, 5000))
