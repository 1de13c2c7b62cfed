"""Stock Flower on loopback: SuperLink, SuperNodes and apps as `flwr run` starts them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from wardround_shared.errors import BackendError
from wardround_shared.supervision import free_port

_APP = Path(__file__).parent / "stock_app"
_START_SECONDS = 60.0


def stock_rounds(folder: Path, *, sites: int, rounds: int, parameters: int) -> list[float]:
    """When each round of train and evaluate has ended, in seconds; the first is the start.

    Raises:
        BackendError: Flower has not finished the run.
    """
    out, port = folder / "stock.json", free_port()
    environment = os.environ | {
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
    }
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n',
        encoding="utf-8",
    )
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                "flower-superlink",
                ["--insecure", "--host", "127.0.0.1", "--port", str(port)],
                environment,
            )
        )
        time.sleep(3)
        for _ in range(sites):
            address = ["--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            stack.enter_context(_running("flower-supernode", ["--insecure", *address], environment))
        config = f'rounds={rounds} parameters={parameters} sites={sites} seconds="{out}"'
        subprocess.run(  # noqa: S603 - Flower's own command
            [_program("flwr"), "run", str(_APP), "bench", "--run-config", config],
            check=True,
            env=environment,
            capture_output=True,
        )
        end = time.monotonic() + _START_SECONDS + 60 * rounds
        while not out.exists():
            if time.monotonic() > end:
                raise BackendError("Stock Flower has not finished its rounds; see its log.")
            time.sleep(0.2)
    ended: list[float] = json.loads(out.read_text(encoding="utf-8"))
    return ended


@contextmanager
def _running(name: str, arguments: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(  # noqa: S603 - Flower's own command
        [_program(name), *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)
