"""Settings of tolls."""

from towpath.servicekit import ServiceSettings


class TollsSettings(ServiceSettings):
    """See :class:`~towpath.servicekit.ServiceSettings`.

    Attributes:
        toll: The price for a boat.
    """

    toll: int = 3
