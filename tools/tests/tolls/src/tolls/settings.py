"""Settings of tolls."""

from towpath.servicekit import ServiceSettings


class TollsSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.ServiceSettings`.

    Attributes:
        toll: What a boat pays.
    """

    toll: int = 3
