"""Errors shown to the user of a terminal."""


class Trouble(Exception):
    """Something a command cannot do. The message is one line: what, with which value, and what to do.

    Attributes:
        status: The exit status: 2 for a setting or option that cannot be used or a broker that cannot be
            reached, 1 for the rest.
    """

    status = 1


class Interrupted(Trouble):
    """Ctrl-C was pressed."""

    status = 130  # 128 + SIGINT, as shells count
