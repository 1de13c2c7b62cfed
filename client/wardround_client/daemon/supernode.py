"""Child process: Flower's SuperNode."""

from pathlib import Path

from wardround_client.flower.supernode import Connection, connect
from wardround_shared.supervision import child_settings, log_as


def main() -> None:
    """Connect as the first line of standard input says."""
    settings = child_settings()
    log_as("supernode")
    connect(
        Connection(
            server=settings["server"],
            ca=Path(settings["ca"]),
            node_key=Path(settings["node_key"]),
            node_id=Path(settings["node_id"]),
            listening=settings["listening"],
            token=settings["token"],
            worker=settings["worker"],
        )
    )


if __name__ == "__main__":
    main()
