"""Mails over a real SMTP server: to those who are offline and want them, once, whatever the server does."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towpath.notifications.app import configured
from towpath.notifications.digest import Digest, mail_for
from towpath.notifications.domain import DAY_MS, Daily, Person
from towpath.notifications.mail import SEND_MAIL, Mailer, MailItem, SendMail
from towpath.notifications.settings import NotificationsSettings
from towpath.notifications.tables import ITEMS, KIT
from towpath.notifications.texts import one_line, title_and_text
from towpath.protocol.envelope import now_ms
from towpath.protocol.notifications import Notification
from towpath.servicekit import BadSetting, EffectCall
from towpath.servicekit.handling.effects import call_id
from towpath.servicekit.runtime.settings import load
from towpath.servicekit.storage import effects
from towpath.testkit.certificates import Authority
from towpath.testkit.dispatching import Incoming, ServiceUnderTest, a_command, an_event
from towpath.testkit.postbox import Postbox
from towpath.testkit.processes import free_port

WINDOW: Final = 300.0
ANA: Final = "ana@example.com"


def mail_settings(box: Postbox, url: str = "sqlite:///unused.db", **more: Any) -> NotificationsSettings:
    values: dict[str, Any] = {
        "amqp_url": "memory://",
        "database_url": url,
        "admin_port": 0,
        "smtp_host": "127.0.0.1",
        "smtp_port": box.port or 25,
        "smtp_tls": "none",
        "smtp_from": "news@shop.example",
        "smtp_timeout": 10.0,
        "mail_window": WINDOW,
        **more,
    }
    return NotificationsSettings(**values)


class Office:
    """The service with mails, a person who wants them, and the postbox."""

    def __init__(self, service: ServiceUnderTest, box: Postbox, chosen: NotificationsSettings) -> None:
        self.service = service
        self.box = box
        self.chosen = chosen

    async def happen(self, *steps: str, order: str = "O-1", user: str = "ana") -> None:
        """Events of an order."""
        await self.service.dispatch(
            *(an_event(f"order.{step}", order_id=order, user_id=user) for step in steps)
        )

    async def decide(self, *, later: float = WINDOW + 1, replica: int = 0) -> None:
        """A round of the digest, as if so many seconds had passed."""
        clock = lambda: now_ms() + int(later * 1000)  # noqa: E731  # it reads `later` of the test
        # The gateways are as they are now: only the window has passed.
        digest = Digest(self.chosen.model_copy(update={"gateway_silence": 30.0 + later}), clock)
        await self.service.turn(digest.round, replica=replica)

    async def post(self, *, replica: int = 0) -> None:
        """Decide, and send all that is due."""
        await self.decide(replica=replica)
        await self.service.perform(replica=replica)

    async def retry(self) -> None:
        """As if the waits of all failed mails had passed."""
        async with self.service.databases[0].transaction() as connection:
            here = KIT.effects.c.state == "waiting"
            await connection.execute(KIT.effects.update().where(here).values(due_at=0))
        await self.service.perform()

    async def states(self) -> list[str]:
        return [row.state for row in await self.service.rows(KIT.effects)]

    def subjects(self) -> list[str]:
        return [str(mail["Subject"]) for mail in self.box.mails]


@asynccontextmanager
async def an_office(url: str, *, replicas: int = 1, **more: Any) -> AsyncIterator[Office]:
    async with Postbox.open() as box:
        chosen = mail_settings(box, url, **more)
        async with ServiceUnderTest.running(configured(chosen), url, replicas=replicas) as service:
            await service.dispatch(a_command("notification.preferences", by="ana", email=ANA))
            service.forget()
            yield Office(service, box, chosen)


@pytest.fixture
async def office(sqlite_url: str) -> AsyncIterator[Office]:
    async with an_office(sqlite_url) as office:
        yield office


def session(event: str, connection: str = "c-1", user: str = "ana", run: str = "r-1") -> Incoming:
    where = {"connection_id": connection, "gateway_id": "gw-1", "incarnation": run}
    return an_event(f"session.{event}", user_id=user, **where)


# Those who get one


async def test_a_person_who_is_offline_and_wants_it_gets_one_mail(database_url: str) -> None:
    async with an_office(database_url, link_base="https://shop.example/app") as office:
        await office.happen("created", "paid")
        await office.happen("paid", user="ben")  # Has no address.
        await office.decide(later=WINDOW - 60)
        await office.service.perform()
        assert office.box.mails == [], "the window is not over"
        await office.post()
        await office.post()
        (mail,) = office.box.mails
        assert (mail["To"], mail["From"], mail["Subject"]) == (
            ANA,
            "news@shop.example",
            "2 new notifications",
        )
        assert mail["Auto-Submitted"] == "auto-generated"
        plain = mail.get_body(("plain",))
        assert plain is not None
        lines = plain.get_content().splitlines()
        assert lines[:2] == ["This happened while you were away:", ""]
        assert lines[2:5] == [
            "Order O-1 received",
            "We have your order.",
            "https://shop.example/app/order/O-1",
        ]
        assert [(event.action, event.data) for event in office.service.events()] == [
            ("notification.mailed", {"user_id": "ana", "count": 2, "seq": 2})
        ]


async def test_a_mail_is_in_the_language_of_the_person(office: Office) -> None:
    await office.service.dispatch(a_command("notification.preferences", by="ana", language="zh"))
    await office.happen("shipped")
    await office.post()
    (mail,) = office.box.mails
    assert mail["Subject"] == "订单 O-1 已发货"
    html = mail.get_body(("html",))
    assert html is not None
    assert "您离开期间发生了这些事" in html.get_content()


async def test_nothing_is_mailed_to_a_person_who_is_online(office: Office) -> None:
    await office.service.dispatch(session("started"))
    await office.happen("paid")
    await office.post()
    assert office.box.mails == []
    await office.service.dispatch(session("ended"))
    await office.post()
    assert office.box.mails == [], "it was decided, and is in the app"
    await office.happen("shipped")
    await office.post()
    assert office.subjects() == ["Order O-1 shipped"]


@pytest.mark.parametrize(
    "story",
    [
        [session("ended"), session("started")],  # A late start.
        [session("started"), session("started"), session("ended"), session("ended")],
        [session("started"), an_event("session.alive", gateway_id="gw-1", incarnation="r-2")],
    ],
    ids=["end before start", "each twice", "another run of the gateway"],
)
async def test_a_person_whose_connections_are_over_is_offline(story: list[Incoming], office: Office) -> None:
    for event in story:
        await office.service.dispatch(event)
    await office.happen("paid")
    await office.post()
    assert office.subjects() == ["Order O-1 paid"]


async def test_a_person_whose_gateway_is_silent_is_offline(office: Office) -> None:
    await office.service.dispatch(session("started"))
    await office.happen("paid")
    digest = Digest(office.chosen, lambda: now_ms() + int(WINDOW + 31) * 1000)
    assert await office.service.turn(digest.round, connected_for=29.0) is False, (
        "it may have missed something"
    )
    await office.service.perform()
    assert office.box.mails == []
    await office.service.turn(digest.round, connected_for=31.0)
    await office.service.perform()
    assert office.subjects() == ["Order O-1 paid"]


async def test_notifications_that_are_read_or_not_wanted_are_not_mailed(office: Office) -> None:
    await office.happen("created", "paid")
    await office.service.dispatch(a_command("notification.read", by="ana", up_to=1))
    await office.post()
    assert office.subjects() == ["Order O-1 paid"]
    await office.service.dispatch(a_command("notification.preferences", by="ana", kinds=["order.delivered"]))
    await office.happen("packed", "shipped", "delivered")
    await office.post()
    assert office.subjects()[1:] == ["Order O-1 delivered"]
    await office.happen("refunded")
    await office.service.dispatch(a_command("notification.preferences", by="ana", kinds=None, email=None))
    await office.happen("cancelled")
    await office.post()
    assert len(office.box.mails) == 2


async def test_many_notifications_are_one_mail_with_a_bound(sqlite_url: str) -> None:
    async with an_office(sqlite_url, mail_max_items=3) as office:
        for number in range(10):
            await office.happen("paid", order=f"O-{number}")
        await office.post()
        (mail,) = office.box.mails
        assert mail["Subject"] == "10 new notifications"
        plain = mail.get_body(("plain",))
        assert plain is not None
        text = plain.get_content()
        assert [number for number in range(10) if f"Order O-{number} paid" in text] == [7, 8, 9]
        assert "And 7 more, in the app." in text


async def test_mails_of_a_day_are_bounded(sqlite_url: str) -> None:
    async with an_office(sqlite_url, mails_per_day=2) as office:
        for number in range(4):
            await office.happen("paid", order=f"O-{number}")
            await office.post()
        assert office.subjects() == ["Order O-0 paid", "Order O-1 paid"]


async def test_without_a_server_nothing_waits_for_a_mail(sqlite_url: str) -> None:
    chosen = NotificationsSettings(amqp_url="memory://", database_url=sqlite_url)
    service = configured(chosen)
    assert not service.effects
    async with ServiceUnderTest.running(service, sqlite_url) as under_test:
        await under_test.dispatch(a_command("notification.preferences", by="ana", email=ANA))
        await under_test.dispatch(an_event("order.paid", order_id="O-1", user_id="ana"))
        assert [row.mail_at for row in await under_test.rows(ITEMS)] == [None]


# The server


async def test_a_temporary_refusal_is_tried_again_until_the_mail_is_accepted_once(office: Office) -> None:
    office.box.replies = ["451 Try again later", "421 Closing"]
    await office.happen("paid")
    await office.post()
    assert (office.box.mails, await office.states()) == ([], ["waiting"])
    for _ in range(4):
        await office.retry()
    assert (office.subjects(), await office.states()) == (["Order O-1 paid"], ["done"])
    assert len(office.box.deliveries) == 3


async def test_a_recipient_that_is_busy_is_tried_again(office: Office) -> None:
    office.box.refused[ANA] = "450 Mailbox busy"
    await office.happen("paid")
    await office.post()
    office.box.refused.clear()
    await office.retry()
    assert office.subjects() == ["Order O-1 paid"]


@pytest.mark.parametrize("where", ["recipient", "data"])
async def test_a_permanent_refusal_is_parked_and_reported(where: str, office: Office) -> None:
    if where == "recipient":
        office.box.refused[ANA] = "550 No such user"
    else:
        office.box.replies = ["554 Rejected as spam"]
    await office.happen("paid")
    await office.post()
    await office.retry()
    assert (len(office.box.deliveries), office.box.mails, await office.states()) == (1, [], ["parked"])
    (event,) = office.service.events()
    assert event.action == "notification.mail_failed"
    assert event.data["user_id"] == "ana"
    assert str(event.data["error"]).startswith(
        "EffectRefused: 55" + ("0 No such user" if where == "recipient" else "4 Rejected as spam")
    )


async def test_a_server_that_is_not_there_is_tried_again(sqlite_url: str) -> None:
    async with an_office(sqlite_url, smtp_port=free_port()) as office:
        await office.happen("paid")
        await office.post()
        (row,) = await office.service.rows(KIT.effects)
        assert (row.state, row.attempts) == ("waiting", 1)
        assert row.error.startswith("SMTPConnectError")


async def test_a_server_that_hangs_costs_its_time_limit_and_no_second_mail(sqlite_url: str) -> None:
    async with an_office(sqlite_url, smtp_timeout=0.3) as office:
        office.box.replies = [asyncio.Event()]
        await office.happen("paid")
        await office.post()
        assert await office.states() == ["waiting"]
        await office.retry()
        await office.retry()
        assert (office.subjects(), await office.states()) == (["Order O-1 paid"], ["done"])


async def test_a_server_that_closes_after_the_data_gets_the_mail_again_under_the_same_id(
    office: Office,
) -> None:
    """The one case in which our own retry doubles a mail: the outcome of the first is unknown (RFC 1047)."""
    office.box.replies = ["close"]
    await office.happen("paid")
    await office.post()
    await office.retry()
    await office.retry()
    first, second = office.box.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert str(first["Message-ID"]).endswith("@shop.example>")
    assert await office.states() == ["done"]
    assert len(office.service.events()) == 1


async def test_a_crash_between_the_acceptance_and_the_commit_doubles_a_mail_once(database_url: str) -> None:
    """Two replicas on one database: at most one double, under the same id, and its result once."""
    async with an_office(database_url, replicas=2) as office:
        await office.happen("paid")
        await office.decide()
        async with office.service.databases[0].transaction() as connection:
            (taken,) = await effects.take(
                connection, KIT.effects, SEND_MAIL, holder="dead", seconds=0, limit=1
            )
        call = EffectCall(call_id("notifications", SEND_MAIL, taken.key), taken.attempts, "")
        await Mailer(office.chosen).send(SendMail.model_validate_json(taken.data), call)
        # The first replica dies here. The lease is over.
        await asyncio.gather(office.service.perform(replica=0), office.service.perform(replica=1))
        await office.post()
        assert len(office.box.mails) == 2
        assert len({mail["Message-ID"] for mail in office.box.mails}) == 1
        assert len(office.service.events()) == 1


async def test_replicas_that_decide_and_send_together_send_each_mail_once(database_url: str) -> None:
    async with an_office(database_url, replicas=2) as office:
        for number in range(12):
            user = f"user-{number}"
            address = f"user-{number}@example.com"
            await office.service.dispatch(a_command("notification.preferences", by=user, email=address))
            await office.happen("paid", user=user)
        await asyncio.gather(office.decide(replica=0), office.decide(replica=1))
        await asyncio.gather(office.service.perform(replica=0), office.service.perform(replica=1))
        assert sorted(str(mail["To"]) for mail in office.box.mails) == sorted(
            f"user-{number}@example.com" for number in range(12)
        )


@pytest.mark.parametrize("mode", ["starttls", "tls"])
async def test_mails_go_encrypted_with_a_login_to_a_server_whose_certificate_is_trusted(
    mode: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("localhost")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    mail = SendMail(user_id="ana", to=ANA, language="en", items=[item()], more=0, last_seq=1)
    login = {"smtp_user": "towpath", "smtp_password": "secret"}
    async with Postbox.open(tls=context, from_start=mode == "tls", password="secret") as box:
        chosen = mail_settings(box, smtp_host="localhost", smtp_tls=mode, smtp_ca=authority.ca, **login)
        await Mailer(chosen).send(mail, EffectCall("m-1", 1, ""))
        assert (len(box.mails), box.logins) == (1, ["towpath"])
        wrong = chosen.model_copy(update={"smtp_password": "other"})
        with pytest.raises(Exception, match="535"):  # Not EffectRefused: the operator corrects it.
            await Mailer(wrong).send(mail, EffectCall("m-1", 1, ""))
        for untrusted in ({"smtp_ca": None}, {"smtp_host": "127.0.0.1"}):
            with pytest.raises(OSError, match="certificate"):
                await Mailer(chosen.model_copy(update=untrusted)).send(mail, EffectCall("m-1", 1, ""))
        assert len(box.mails) == 1


async def test_a_server_without_tls_gets_nothing_if_tls_is_wanted() -> None:
    mail = SendMail(user_id="ana", to=ANA, language="en", items=[item()], more=0, last_seq=1)
    async with Postbox.open() as box:
        with pytest.raises(Exception, match="STARTTLS"):
            await Mailer(mail_settings(box, smtp_tls="starttls")).send(mail, EffectCall("m-1", 1, ""))
        assert box.deliveries == []


# Hostile words


HOSTILE: Final = (
    *("{{ 7*7 }}", "{% for a in b %}", "{{ ''.__class__ }}", "%(x)s {0}", "<script>alert(1)</script>"),
    *("a\r\nBcc: all@example.com", "a\nSubject: b", '"><img src=x>', "\u202egnp.exe", "a\x00b", "\u2028b"),
)


@pytest.mark.parametrize("word", HOSTILE)
async def test_words_of_users_are_shown_and_never_executed(word: str, office: Office) -> None:
    await office.service.dispatch(
        an_event("chat.invitation_sent", user_id="ana", by="ben", room="den", title=word.replace("\0", ""))
    )
    await office.post()
    (mail,) = office.box.mails
    assert "Bcc" not in mail
    assert len(mail.get_all("Subject", [])) == 1
    html, plain = mail.get_body(("html",)), mail.get_body(("plain",))
    assert html is not None
    assert plain is not None
    shown = one_line(word.replace("\0", ""))
    assert f"You are invited to the room {shown}." in plain.get_content()
    assert "49" not in plain.get_content()
    assert "<script" not in html.get_content()
    assert "<img" not in html.get_content()


@given(word=st.text(max_size=400))
def test_any_word_makes_one_line_of_every_text(word: str) -> None:
    shown = one_line(word)
    assert len(shown) <= 200
    assert shown.splitlines() in ([shown], [])
    for language in ("en", "zh"):
        title, text = title_and_text(language, "chat.invited", {"by": word, "room": word})
        assert shown in title
        assert shown in text


@settings(max_examples=50)
@given(title=st.text(max_size=300), text=st.text(max_size=300), to=st.just(ANA))
def test_any_notification_makes_a_message_without_other_headers(title: str, text: str, to: str) -> None:
    chosen = mail_settings(Postbox())
    box_mail = SendMail(
        user_id="ana",
        to=to,
        language="en",
        items=[MailItem(title=one_line(title), text=one_line(text))],
        more=0,
        last_seq=1,
    )
    message = Mailer(chosen).message(box_mail, "m-1")
    head = bytes(message).partition(b"\r\n\r\n")[0].decode()
    names = {line.partition(":")[0] for line in head.split("\r\n") if line[:1] not in (" ", "\t")}
    assert names == {
        *("From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type")
    }


# Decisions


def item() -> MailItem:
    return MailItem(title="Order O-1 paid", text="Your payment has arrived.", link="order/O-1")


def a_notification(seq: int, kind: str) -> Notification:
    return Notification(id=f"n-{seq}", seq=seq, kind=kind, title="t", text="t", created_at=seq)


@given(
    kinds=st.lists(st.sampled_from(["order.paid", "order.shipped", "chat.direct"]), max_size=30),
    wanted=st.none() | st.lists(st.sampled_from(["order.paid", "chat.direct"]), unique=True),
    email=st.none() | st.just(ANA),
    read_seq=st.integers(0, 35),
    sent=st.integers(0, 3),
    day=st.integers(0, 1),
    most=st.integers(1, 10),
)
def test_a_digest_has_the_newest_that_are_wanted_and_unread(
    kinds: list[str], wanted: Any, email: str | None, read_seq: int, sent: int, day: int, most: int
) -> None:
    person = Person("ana", email, None, wanted, read_seq, mails=Daily(day, sent))
    waiting = [a_notification(seq, kind) for seq, kind in enumerate(kinds, 1)]
    chosen = mail_settings(Postbox(), mail_max_items=most, mails_per_day=2)
    mail = mail_for(person, waiting, DAY_MS + 5, chosen)
    right = [one.seq for one in waiting if one.seq > read_seq and (wanted is None or one.kind in wanted)]
    if email is None or not right or (day == 1 and sent >= 2):
        assert mail is None
    else:
        assert mail is not None
        assert (len(mail.items), mail.more) == (min(len(right), most), max(len(right) - most, 0))
        assert (mail.last_seq, mail.to, mail.language) == (right[-1], ANA, "en")


ACTS: Final = st.lists(
    st.sampled_from(["paid", "shipped", "read", "online", "offline", "round", "fails"]), max_size=14
)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(acts=ACTS)
async def test_in_any_story_each_notification_is_in_one_mail_at_most(
    acts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('story')}/story.db"
    async with an_office(url) as office:
        open_connections: list[str] = []
        orders: list[str] = []  # By seq, from 1.
        undecided: list[int] = []
        read = 0
        mailed: list[str] = []
        for number, act in enumerate(acts):
            if act in ("paid", "shipped"):
                orders.append(f"O-{number}")
                undecided.append(len(orders))
                await office.happen(act, order=orders[-1])
            elif act == "read":
                read = len(orders)
                await office.service.dispatch(a_command("notification.read", by="ana", up_to=read))
            elif act == "online":
                open_connections.append(f"c-{number}")
                await office.service.dispatch(session("started", connection=f"c-{number}"))
            elif act == "offline":
                for connection in open_connections:
                    await office.service.dispatch(session("ended", connection=connection))
                open_connections = []
            else:
                office.box.replies = ["451 Later"] if act == "fails" else []
                await office.post()
                await office.retry()
                if not open_connections:
                    mailed += [orders[seq - 1] for seq in undecided if seq > read]
                undecided = []
        shown = [
            line.split()[1]
            for mail in office.box.mails
            if (body := mail.get_body(("plain",))) is not None
            for line in body.get_content().splitlines()
            if line.startswith("Order ")
        ]
        assert shown == mailed


# Settings


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"SMTP_HOST": "mail.example"}, "needs TOWPATH_SMTP_FROM"),
        ({"SMTP_HOST": "mail.example", "SMTP_FROM": "News <news@example.com>"}, "TOWPATH_SMTP_FROM"),
        ({"SMTP_USER": "towpath"}, "needed together"),
        ({"SMTP_USER": "t", "SMTP_PASSWORD": "hunter2", "SMTP_TLS": "none"}, "not sent without TLS"),
        ({"SMTP_TLS": "maybe"}, "TOWPATH_SMTP_TLS"),
        ({"LINK_BASE": "javascript:alert(1)"}, "https://shop.example/"),
    ],
)
def test_settings_that_cannot_work_are_named(
    variables: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"TOWPATH_{name}", value)
    with pytest.raises(BadSetting) as refused:
        load(NotificationsSettings)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_file_of_authorities_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    chosen = mail_settings(Postbox(), smtp_tls="starttls", smtp_ca=str(tmp_path / "none.pem"))
    with pytest.raises(BadSetting, match="TOWPATH_SMTP_CA"):
        configured(chosen)
