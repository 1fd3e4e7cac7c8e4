"""Exit statuses: why a program ended, for what restarts it.

The numbers are those of ``sysexits.h``, which systemd shows by name (``78/CONFIG``). A program that ends with
:attr:`ExitStatus.FAILED` or :attr:`ExitStatus.HANGS` should be started again; with the others it would end again
until an operator changes something. https://man.openbsd.org/sysexits
"""

import enum


class ExitStatus(enum.IntEnum):
    """The exit status of Towpath's programs."""

    STOPPED = 0  #: By SIGTERM, SIGINT or `towpath drain`.
    FAILED = 1  #: An unexpected error; the log has its traceback.
    BAD_SERVICE = 65  #: The definition of a service is invalid (EX_DATAERR).
    HANGS = 70  #: The watchdog ended a program that hung (EX_SOFTWARE).
    DIFFERS = 76  #: A queue or exchange exists with other arguments (EX_PROTOCOL).
    REFUSED = 77  #: RabbitMQ or the database refuses the account, or a permission is missing (EX_NOPERM).
    BAD_SETTING = 78  #: A setting is missing or cannot be used (EX_CONFIG).

    @property
    def restart_helps(self) -> bool:
        """Whether a start without any change may succeed."""
        return self in (ExitStatus.FAILED, ExitStatus.HANGS)
