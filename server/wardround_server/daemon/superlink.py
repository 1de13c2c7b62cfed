"""Child process: Flower's SuperLink."""

from pathlib import Path

from wardround_server.flower.superlink import Doors, serve
from wardround_shared.supervision import child_settings, log_as


def main() -> None:
    """Serve as the first line of standard input says."""
    settings = child_settings()
    log_as("superlink")
    serve(
        Doors(
            host=settings["host"],
            port=settings["port"],
            local_port=settings["local_port"],
            token=settings["token"],
            certificate=Path(settings["certificate"]),
            key=Path(settings["key"]),
            ca=Path(settings["ca"]),
            database=Path(settings["database"]),
        )
    )


if __name__ == "__main__":
    main()
