"""The active revocations: which tokens are refused."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towpath.gateway.admission.credentials import Identity
from towpath.gateway.admission.revocations import Revocations
from towpath.protocol.revocations import Kind, Revocation


def an_identity(user: str = "ana", token_id: str | None = None, issued_at: float = 100.0) -> Identity:
    return Identity(user, 10_000.0, token_id=token_id, issued_at=issued_at)


def revoked(kind: Kind, **fields: object) -> Revocations:
    revocations = Revocations()
    revocations.add(kind, Revocation(**{"until": 1_000.0, **fields}), 0.0)  # type: ignore[arg-type]
    return revocations


@pytest.mark.parametrize(
    ("kind", "fields", "identity", "refused"),
    [
        (Kind.TOKEN, {"token_id": "t"}, an_identity(token_id="t"), True),
        (Kind.TOKEN, {"token_id": "t"}, an_identity(token_id="T"), False),
        (Kind.TOKEN, {"token_id": "t"}, an_identity(), False),
        (Kind.USER, {"user_id": "ana", "before": 100.0}, an_identity(), True),
        (Kind.USER, {"user_id": "ana", "before": 99.0}, an_identity(), False),
        (Kind.USER, {"user_id": "ben", "before": 100.0}, an_identity(), False),
        (Kind.USER, {"user_id": "ana", "before": 1.0}, an_identity(issued_at=0.0), True),
        (Kind.ISSUED_BEFORE, {"before": 100.0}, an_identity(), True),
        (Kind.ISSUED_BEFORE, {"before": 99.0}, an_identity(), False),
        (Kind.ISSUED_BEFORE, {"before": 1.0}, an_identity(issued_at=0.0), True),
    ],
)
def test_a_token_is_refused_if_a_revocation_names_it(
    kind: Kind, fields: dict[str, object], identity: Identity, refused: bool
) -> None:
    revocations = revoked(kind, **fields)
    assert revocations.refuses(identity, 999.0) is refused
    assert not revocations.refuses(identity, 1_000.0)


def test_revocations_that_have_ended_are_forgotten() -> None:
    revocations = revoked(Kind.TOKEN, token_id="t")
    revocations.add(Kind.USER, Revocation(500.0, user_id="ana", before=1.0), 0.0)
    revocations.add(Kind.ISSUED_BEFORE, Revocation(500.0, before=1.0), 0.0)
    assert len(revocations) == 3
    revocations.expire(500.0)
    assert len(revocations) == 1
    revocations.expire(1_000.0)
    assert len(revocations) == 0


def test_naming_the_same_again_and_again_takes_no_room() -> None:
    revocations = Revocations()
    for number in range(1, 1_000):
        revocations.add(Kind.USER, Revocation(1_000.0 + number, user_id="ana", before=float(number)), 0.0)
        revocations.add(Kind.TOKEN, Revocation(1_000.0 + number, token_id="t"), 0.0)
        revocations.add(Kind.ISSUED_BEFORE, Revocation(1_000.0 + number, before=float(number)), 0.0)
    assert len(revocations) == 3


class Step(NamedTuple):
    kind: Kind
    subject: str
    before: float
    until: float

    @property
    def item(self) -> Revocation:
        if self.kind is Kind.TOKEN:
            return Revocation(self.until, token_id=self.subject)
        user = self.subject if self.kind is Kind.USER else ""
        return Revocation(self.until, user_id=user, before=self.before)

    def names(self, identity: Identity) -> bool:
        if self.kind is Kind.TOKEN:
            return identity.token_id == self.subject
        return (self.kind is Kind.ISSUED_BEFORE or identity.user_id == self.subject) and (
            identity.issued_at <= self.before
        )


times = st.integers(1, 30).map(float)
steps = st.builds(Step, st.sampled_from(Kind), st.sampled_from(["a", "b"]), times, times)
identities = st.builds(
    an_identity,
    user=st.sampled_from(["a", "b"]),
    token_id=st.sampled_from(["a", "b", None]),
    issued_at=st.integers(0, 30).map(float),
)


@given(st.lists(st.tuples(steps, st.integers(0, 3), st.booleans())), identities, st.integers(0, 5).map(float))
def test_any_order_of_revocations_refuses_what_a_list_of_them_would(
    history: list[tuple[Step, int, bool]], identity: Identity, later: float
) -> None:
    revocations, now = Revocations(), 0.0
    added: list[Step] = []
    for step, passed, expires in history:
        now += passed
        if expires:
            revocations.expire(now)
        revocations.add(step.kind, step.item, now)
        added.append(step)
    now += later
    refused = revocations.refuses(identity, now)
    if any(step.names(identity) and step.until > now for step in added):
        assert refused
    if refused:
        # Of one subject the latest `before` and the latest `until` may come from two revocations.
        assert any(
            step.names(identity) and other.until > now
            for step in added
            for other in added
            if (step.kind, step.kind is not Kind.ISSUED_BEFORE and step.subject)
            == (other.kind, other.kind is not Kind.ISSUED_BEFORE and other.subject)
        )
