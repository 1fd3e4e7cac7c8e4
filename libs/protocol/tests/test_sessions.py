"""Session events: the starts and ends of connections, and the announcements of a gateway."""

from typing import Any

import pytest
from pydantic import ValidationError

from towpath.protocol.sessions import GatewayAlive, SessionEnded, SessionEvent, SessionStarted

GOOD: dict[str, Any] = {"user_id": "ana", "connection_id": "c-1", "gateway_id": "gw-1"}


def test_a_session_starts_without_a_code_and_ends_with_one() -> None:
    assert SessionStarted.model_validate(GOOD).code is None
    assert SessionEnded.model_validate({**GOOD, "code": 4002}).code == 4002


@pytest.mark.parametrize("model", [SessionStarted, SessionEnded, GatewayAlive])
def test_the_run_of_the_gateway_may_be_left_out(model: type[SessionEvent | GatewayAlive]) -> None:
    assert model.model_validate(GOOD).incarnation == ""
    assert model.model_validate({**GOOD, "incarnation": "r-1"}).incarnation == "r-1"
    with pytest.raises(ValidationError, match="incarnation"):
        model.model_validate({**GOOD, "incarnation": "x" * 65})


@pytest.mark.parametrize("field", ["user_id", "connection_id", "gateway_id"])
@pytest.mark.parametrize("value", ["", "x" * 257, "a\x00", 5, None])
def test_publish_requires_order_and_user(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        SessionEvent.model_validate({**GOOD, field: value})
