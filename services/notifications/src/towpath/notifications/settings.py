"""Settings of the notifications service."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, model_validator
from yarl import URL

from towpath.protocol.notifications import Email, Language
from towpath.servicekit import Port, Seconds, ServiceSettings


def _address(value: str) -> str:
    TypeAdapter(Email).validate_python(value)
    return value


def _http_url(value: str) -> str:
    url = URL(value)
    if url.scheme not in ("http", "https") or not url.host or url.query_string or url.fragment:
        raise ValueError("must be like https://shop.example/")
    return value if value.endswith("/") else value + "/"


_Text = Annotated[str, StringConstraints(min_length=1, max_length=500, pattern=r"^\S(.*\S)?$")]


class NotificationsSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.runtime.settings.ServiceSettings`.

    Attributes:
        default_language: Of users who have chosen none.
        link_base: The address of the application, which links of mails begin with; without it mails have no links.
        notifications_retention: Seconds that a notification is listed, and an event about the same topic finds it.
        smtp_host: The SMTP server that mails are given to; without it no mail is sent.
        smtp_port: Its port; 587 with `starttls`, 465 with `tls`.
        smtp_tls: `starttls`, `tls` from the first byte, or `none`. The certificate is verified.
        smtp_ca: File (PEM) of the certificate authorities that its certificate must come from; by default the
            system's.
        smtp_user, smtp_password: Its login, if it wants one.
        smtp_from: The address that mails come from; needed with `smtp_host`.
        smtp_timeout: Seconds for one command of SMTP.
        mail_window: Seconds from a notification to its mail: those of this time are in one mail, and nothing is sent
            about what the user has read meanwhile, or while the user is online.
        mail_max_items: Notifications in one mail; it gives the number of the others.
        mails_per_day: Mails to one user within a day (UTC); notifications past them are in the app alone.
        mail_attempts: Attempts to send a mail, with waits from 10 s to 1 h between them, before it is parked.
        mails_at_once: Mails that one replica sends at the same time.
        addresses_per_day: How often a user may change the address within a day (UTC); 0 if operators alone set it.
        gateway_silence: Seconds after which a silent gateway counts as dead, and its users as disconnected; several
            times the gateways' `alive_interval`.
    """

    admin_port: Port = 8085
    default_language: Language = "en"
    link_base: Annotated[_Text, AfterValidator(_http_url)] | None = None
    notifications_retention: Annotated[float, Field(ge=60, allow_inf_nan=False)] = 90 * 86_400.0
    smtp_host: _Text | None = None
    smtp_port: Annotated[int, Field(ge=1, le=65535)] = 587
    smtp_tls: Literal["starttls", "tls", "none"] = "starttls"
    smtp_ca: _Text | None = None
    smtp_user: _Text | None = None
    smtp_password: _Text | None = None
    smtp_from: Annotated[_Text, AfterValidator(_address)] | None = None
    smtp_timeout: Seconds = 20.0
    mail_window: Seconds = 300.0
    mail_max_items: Annotated[int, Field(ge=1, le=200)] = 20
    mails_per_day: Annotated[int, Field(ge=1, le=10_000)] = 24
    mail_attempts: Annotated[int, Field(ge=1, le=1000)] = 15
    mails_at_once: Annotated[int, Field(ge=1, le=1000)] = 4
    addresses_per_day: Annotated[int, Field(ge=0, le=1000)] = 5
    gateway_silence: Seconds = 30.0

    @model_validator(mode="after")
    def _mails_have_a_sender(self) -> Self:
        if self.smtp_host is not None and self.smtp_from is None:
            raise ValueError("TOWPATH_SMTP_HOST needs TOWPATH_SMTP_FROM, the address that mails come from")
        if (self.smtp_user is None) != (self.smtp_password is None):
            raise ValueError("TOWPATH_SMTP_USER and TOWPATH_SMTP_PASSWORD are needed together")
        if self.smtp_user is not None and self.smtp_tls == "none":
            raise ValueError(
                "TOWPATH_SMTP_PASSWORD is not sent without TLS: set TOWPATH_SMTP_TLS to starttls or tls"
            )
        return self
