"""``tolls``."""

from towpath.servicekit import run

from .app import serve
from .settings import TollsSettings


def main() -> None:
    run("tolls", serve, TollsSettings)


if __name__ == "__main__":
    main()
