"""Error codes: the table of the contract."""

import pytest

from towpath.protocol import errors
from towpath.protocol.errors import BadEnvelope, Busy, ErrorCode, InvalidData, TowpathError

CONTRACT = {
    "bad_envelope": False,
    "unsupported_version": False,
    "unknown_action": False,
    "invalid_data": False,
    "unauthorized": False,
    "forbidden": False,
    "not_found": False,
    "conflict": False,
    "payload_too_large": False,
    "rate_limited": True,
    "busy": True,
    "unavailable": True,
    "timeout": True,
    "internal": True,
}
SITUATIONS = [
    (errors.UnsupportedVersion, "unsupported_version"),
    (errors.BadEnvelope, "bad_envelope"),
    (errors.UnknownAction, "unknown_action"),
    (errors.InvalidData, "invalid_data"),
    (errors.Forbidden, "forbidden"),
    (errors.NotFound, "not_found"),
    (errors.Conflict, "conflict"),
    (errors.Busy, "busy"),
    (errors.Unavailable, "unavailable"),
    (errors.OutcomeUnknown, "timeout"),
    (TowpathError, "internal"),
]


def test_the_codes_and_their_retryable_flags_are_those_of_the_contract() -> None:
    assert {code.value: code.retryable for code in ErrorCode} == CONTRACT


@pytest.mark.parametrize(("situation", "code"), SITUATIONS)
def test_each_situation_has_its_code(situation: type[TowpathError], code: str) -> None:
    data = situation("It is so.").data()
    assert data == {"code": code, "message": "It is so.", "retryable": CONTRACT[code]}


def test_a_code_may_be_given_without_a_subclass() -> None:
    error = TowpathError("The token is expired.", code=ErrorCode.UNAUTHORIZED)
    assert error.data()["code"] == "unauthorized"
    assert TowpathError("Something else.").code is ErrorCode.INTERNAL


def test_an_error_contains_its_known_fields_only() -> None:
    error = Busy("Full.", details={"waiting": 3}, retry_after_ms=250)
    assert error.data(trace_id="ab" * 16) == {
        "code": "busy",
        "message": "Full.",
        "retryable": True,
        "retry_after_ms": 250,
        "details": {"waiting": 3},
        "trace_id": "ab" * 16,
    }
    assert "retry_after_ms" in Busy("Full.", retry_after_ms=0).data()


def test_an_error_reads_as_its_message() -> None:
    assert str(InvalidData("data refused: text: is missing.")) == "data refused: text: is missing."
    assert BadEnvelope("No.", msg_id="m-1").msg_id == "m-1"
