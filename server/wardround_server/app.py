"""Flower's `ServerApp` around the coordinator. Wiring only."""

from collections.abc import Callable

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from wardround_server.coordinator import Coordinator, Outcome
from wardround_server.exchange import GridExchange


def build_server_app(coordinator: Coordinator, done: Callable[[Outcome], None]) -> ServerApp:
    """A `ServerApp` that runs `coordinator` and hands its outcome to `done`."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        done(coordinator.run(GridExchange(grid)))

    return app
