"""The plan of selective routing: pushes to connected users arrive in every state and after every fault."""

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from towpath.gateway.inbox.binding_plan import Plan, Step, StepKind

EVERYTHING = "*"
CALM, LINGER, PATIENCE = 10.0, 60.0, 1.0


def a_plan(*, most: int = 100, waiting_most: int = 10) -> Plan:
    return Plan(most=most, waiting_most=waiting_most, patience=PATIENCE, linger=LINGER, calm=CALM)


class PlanUnderTest:
    """A plan, its inbox, and the code that carries out its steps.

    Attributes:
        inbox: Its bindings.
    """

    def __init__(self, **bounds: int) -> None:
        self.plan = a_plan(**bounds)
        self.now = 0.0
        self.inbox: Counter[str] = Counter({EVERYTHING: 1})

    def arrive(self, *users: str) -> None:
        for user in users:
            self.plan.arrive(user, self.now)

    def leave(self, *users: str) -> None:
        for user in users:
            self.plan.leave(user, self.now)

    def steps_now(self) -> Iterator[Step]:
        """Every step there is now, carried out."""
        for _ in range(100):
            if (step := self.plan.next_step(self.now)) is None:
                return
            apply(step, self.inbox)
            self.plan.done(step, self.now)
            yield step
        raise AssertionError("it does not come to rest")

    def after(self, seconds: float) -> list[Step]:
        """Let time pass, and do what there is to be done then."""
        self.now += seconds
        return list(self.steps_now())

    @property
    def bound(self) -> set[str]:
        return set(+self.inbox)


def apply(step: Step, inbox: Counter[str]) -> None:
    """The reaction of the broker."""
    name = EVERYTHING if step.kind in (StepKind.CATCH_ALL, StepKind.CATCH_NONE) else step.user
    inbox[name] = int(step.kind in (StepKind.BIND, StepKind.CATCH_ALL))


@pytest.fixture
def routing() -> PlanUnderTest:
    return PlanUnderTest()


def test_a_new_inbox_keeps_the_catch_alls_until_connects_are_calm(routing: PlanUnderTest) -> None:
    routing.plan.begin(0.0)
    routing.arrive("ana")
    assert routing.plan.reached("ana")
    assert routing.after(CALM - 0.1) == []
    assert routing.plan.due(routing.now) == CALM
    assert [step.kind for step in routing.after(0.1)] == [StepKind.BIND, StepKind.CATCH_NONE]
    assert routing.bound == {"ana"}


def test_the_catch_alls_are_removed_only_when_every_connected_user_has_a_binding(
    routing: PlanUnderTest,
) -> None:
    routing.arrive("ana", "ben", "cyd")
    steps = routing.after(CALM)
    assert [(step.kind, step.user) for step in steps] == [
        (StepKind.BIND, "ana"),
        (StepKind.BIND, "ben"),
        (StepKind.BIND, "cyd"),
        (StepKind.CATCH_NONE, ""),
    ]


def test_a_replica_without_users_has_no_user_bindings(routing: PlanUnderTest) -> None:
    routing.after(CALM)
    assert routing.bound == set()


def test_without_catch_alls_a_new_user_waits_for_a_binding(routing: PlanUnderTest) -> None:
    routing.after(CALM)
    routing.arrive("ana")
    assert not routing.plan.reached("ana")
    assert [step.kind for step in routing.after(0)] == [StepKind.BIND]
    assert routing.plan.reached("ana")


def test_catch_alls_do_not_count_once_their_removal_has_begun(routing: PlanUnderTest) -> None:
    routing.now = CALM
    step = routing.plan.next_step(routing.now)
    assert step == Step(StepKind.CATCH_NONE)
    routing.arrive("ana")
    assert not routing.plan.reached("ana")


def test_a_user_with_several_connections_has_one_binding_until_the_last_ends(
    routing: PlanUnderTest,
) -> None:
    routing.arrive("ana", "ana")
    routing.after(CALM)
    routing.leave("ana")
    assert routing.after(2 * LINGER) == []
    routing.leave("ana")
    assert routing.after(LINGER - 0.1) == []
    assert routing.plan.due(routing.now) == pytest.approx(routing.now + 0.1)
    assert routing.after(0.2) == [Step(StepKind.UNBIND, "ana")]
    assert routing.bound == set()


def test_a_user_who_reconnects_in_time_still_has_the_binding(routing: PlanUnderTest) -> None:
    routing.arrive("ana")
    routing.after(CALM)
    routing.leave("ana")
    routing.after(LINGER / 2)
    routing.arrive("ana")
    assert routing.plan.reached("ana")
    assert routing.after(2 * LINGER) == []


def test_a_binding_does_not_count_once_its_removal_has_begun(routing: PlanUnderTest) -> None:
    routing.arrive("ana")
    routing.after(CALM)
    routing.leave("ana")
    routing.now += LINGER
    assert routing.plan.next_step(routing.now) == Step(StepKind.UNBIND, "ana")
    routing.arrive("ana")
    assert not routing.plan.reached("ana")
    assert routing.plan.next_step(routing.now) == Step(StepKind.BIND, "ana")


def test_more_waiting_users_than_can_be_bound_soon_cause_the_fallback() -> None:
    routing = PlanUnderTest(waiting_most=3)
    routing.after(CALM)
    routing.arrive("u0", "u1", "u2")
    step = routing.plan.next_step(routing.now)
    assert step == Step(StepKind.BIND, "u0")
    routing.arrive("u3")
    routing.plan.done(step, routing.now)
    routing.arrive("u4")
    assert [step.kind for step in routing.steps_now()] == [StepKind.CATCH_ALL]
    assert all(routing.plan.reached(f"u{n}") for n in range(5))
    assert [step.kind for step in routing.after(CALM)] == [StepKind.BIND] * 4 + [StepKind.CATCH_NONE]


def test_a_user_who_waits_too_long_causes_the_fallback(routing: PlanUnderTest) -> None:
    routing.after(CALM)
    routing.arrive("ana")
    assert [step.kind for step in routing.after(PATIENCE + 0.1)] == [StepKind.CATCH_ALL]


def test_a_failed_binding_causes_the_fallback_and_is_retried_later(
    routing: PlanUnderTest,
) -> None:
    routing.after(CALM)
    routing.arrive("ana")
    step = routing.plan.next_step(routing.now)
    assert step is not None
    routing.plan.bind_failed(step, routing.now)
    assert not routing.plan.reached("ana")
    assert list(routing.steps_now()) == [Step(StepKind.CATCH_ALL, reason="a binding failed")]
    assert routing.plan.reached("ana")
    assert [step.kind for step in routing.after(CALM)] == [StepKind.BIND, StepKind.CATCH_NONE]


def test_an_unconfirmed_binding_is_removed_when_unneeded(routing: PlanUnderTest) -> None:
    routing.arrive("ana")
    routing.now = CALM
    step = routing.plan.next_step(routing.now)
    assert step is not None
    routing.plan.bind_failed(step, routing.now)
    routing.leave("ana")
    assert Step(StepKind.UNBIND, "ana") in routing.after(LINGER)


def test_more_users_than_bindings_keep_the_catch_alls() -> None:
    routing = PlanUnderTest(most=2)
    routing.arrive("ana", "ben", "cyd")
    assert routing.after(CALM) == []
    routing.leave("ben")
    routing.after(0)
    assert routing.bound == {"ana", "cyd"}
    routing.arrive("dan")
    assert [step.kind for step in routing.after(0)] == [StepKind.CATCH_ALL]


def test_an_unneeded_binding_is_removed_at_once_when_the_maximum_is_reached() -> None:
    routing = PlanUnderTest(most=2)
    routing.arrive("ana", "ben")
    routing.after(CALM)
    routing.leave("ana")
    routing.arrive("cyd")
    assert routing.after(0) == [Step(StepKind.UNBIND, "ana"), Step(StepKind.BIND, "cyd")]


def test_samples_rotate_and_show_whether_a_binding_was_replaced(routing: PlanUnderTest) -> None:
    assert routing.plan.sample() is None
    routing.arrive("ana", "ben")
    routing.after(CALM)
    samples = [routing.plan.sample() for _ in range(4)]
    assert [sample[0] for sample in samples if sample] == ["ana", "ben", "ana", "ben"]
    assert samples[0] is not None
    assert routing.plan.binding_exists(*samples[0])
    routing.leave("ana")
    routing.after(LINGER)
    assert not routing.plan.binding_exists(*samples[0])
    routing.arrive("ana")
    routing.after(0)
    assert not routing.plan.binding_exists(*samples[0])


USERS = st.sampled_from(["ana", "ben", "cyd", "dan"])


class RoutingMachine(RuleBasedStateMachine):
    """Users connect and disconnect while the broker carries out steps, late, or not, or is unreachable.

    Pushes reach every welcomed user at each moment: not only between steps, but during one.
    """

    @initialize(most=st.integers(1, 4), waiting_most=st.integers(0, 3), faults=st.booleans())
    def begin(self, most: int, waiting_most: int, faults: bool) -> None:
        self.most = most
        self.faults = faults
        self.plan = a_plan(most=most, waiting_most=waiting_most)
        self.now = 0.0
        self.plan.begin(self.now)
        self.inbox: Counter[str] = Counter({EVERYTHING: 1})
        self.here: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()
        self.step: Step | None = None
        self.ghosts: list[Step] = []  # bindings that may still be made, as their outcome is unknown
        self.doubt = False

    @rule(user=USERS)
    def arrive(self, user: str) -> None:
        self.plan.arrive(user, self.now)
        (self.here if self.plan.reached(user) else self.waiting)[user] += 1

    @precondition(lambda self: self.here.total())
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(+self.here)))
        self.here[user] -= 1
        self.plan.leave(user, self.now)

    @precondition(lambda self: self.waiting.total())
    @rule(data=st.data())
    def give_up_waiting(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(sorted(+self.waiting)))
        self.waiting[user] -= 1
        self.plan.leave(user, self.now)

    @rule(seconds=st.sampled_from([0.1, PATIENCE * 2, CALM, LINGER]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.step is None)
    @rule()
    def take(self) -> None:
        self.step = self.plan.next_step(self.now)

    @precondition(lambda self: self.step is not None)
    @rule()
    def the_broker_does_it(self) -> None:
        assert self.step is not None
        apply(self.step, self.inbox)

    @precondition(lambda self: self.step is not None)
    @rule()
    def the_broker_has_done_it(self) -> None:
        assert self.step is not None
        apply(self.step, self.inbox)
        self.everybody_here_is_reached()
        self.plan.done(self.step, self.now)
        self.step = None
        self.admit()

    @rule(seconds=st.sampled_from([0.0, CALM, LINGER]))
    def some_time_passes_without_a_fault(self, seconds: float) -> None:
        self.now += seconds
        for _ in range(50):
            if self.step is None:
                self.take()
            if self.step is None:
                return
            self.the_broker_has_done_it()
            self.there_are_not_too_many_bindings()
        raise AssertionError("it does not come to rest")

    @precondition(lambda self: self.faults and self.step is not None)
    @rule()
    def the_broker_does_not_answer(self) -> None:
        assert self.step is not None
        self.doubt = True
        if self.step.kind is StepKind.BIND:
            self.ghosts.append(self.step)
            self.plan.bind_failed(self.step, self.now)
            self.step = None
        else:
            self.the_inbox_is_lost()

    @precondition(lambda self: self.ghosts)
    @rule()
    def the_broker_does_it_late(self) -> None:
        apply(self.ghosts.pop(0), self.inbox)

    @precondition(lambda self: self.faults)
    @rule()
    def the_inbox_is_lost(self) -> None:
        self.inbox = Counter({EVERYTHING: 1})
        self.plan.begin(self.now)
        self.step = None
        self.ghosts.clear()
        self.doubt = False
        self.admit()

    def admit(self) -> None:
        for user in +self.waiting:
            if self.plan.reached(user):
                self.here[user] += self.waiting.pop(user)

    @invariant()
    def everybody_here_is_reached(self) -> None:
        for user in +self.here:
            assert self.inbox[EVERYTHING] or self.inbox[user], f"a push to {user} is lost"

    @invariant()
    def there_are_not_too_many_bindings(self) -> None:
        if not self.doubt:
            assert sum(self.inbox.values()) - self.inbox[EVERYTHING] <= self.most

    def teardown(self) -> None:
        """Once all is calm it converges: to one binding for each user, or to the catch-alls if they are too many."""
        while self.ghosts:
            self.the_broker_does_it_late()
        for _ in range(3):
            self.some_time_passes_without_a_fault(LINGER + CALM)
            assert not self.waiting.total(), "a user waits for ever"
        users = set(+self.here)
        if len(users) > self.most:
            assert self.inbox[EVERYTHING]
        elif self.doubt:  # a binding that was made late may stay
            assert users <= set(+self.inbox)
            assert not self.inbox[EVERYTHING]
        else:
            assert set(+self.inbox) == users


TestRoutingMachine = RoutingMachine.TestCase
TestRoutingMachine.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
