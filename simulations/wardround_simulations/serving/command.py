"""`wardround serve`."""

import ipaddress
import ssl
from pathlib import Path
from typing import Annotated

import typer

from wardround_shared.commands import errors
from wardround_shared.errors import RunError
from wardround_shared.terminal import say

_LOOPBACK = ("localhost", "127.0.0.1")
# Shorter ones can be tried out.
_SHORTEST_TOKEN = 32


def serve(  # noqa: PLR0917 - the command's options
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8800,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Name under which others reach this machine; may be given again."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the token that each request has to bring.")
    ] = None,
    certificate: Annotated[Path | None, typer.Option(help="TLS certificate chain, PEM.")] = None,
    key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
) -> None:
    """Answer questions to a run's model over HTTP, on this machine alone unless told otherwise.

    For example: wardround serve runs/phantom-20260101-120000, and then
    curl --data-binary @chest.dcm 'http://127.0.0.1:8800/predict?kind=dcm'
    """
    with errors():
        token = None if token_file is None else _token(token_file)
        hosts = _require_protected(host, name or [], token, certificate, key)
        import uvicorn  # noqa: PLC0415 - slow import, as are the others

        from wardround_simulations.prediction.predictor import Predictor  # noqa: PLC0415
        from wardround_simulations.serving.app import build_app  # noqa: PLC0415

        _require_certificate(certificate, key)
        app = build_app(Predictor(run), hosts=hosts, token=token)
        scheme = "http" if certificate is None else "https"
        say(f"listening at {scheme}://{host}:{port}, described at /openapi.json; Ctrl-C ends it")
        uvicorn.run(
            app,
            host=host,
            port=port,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            log_level="warning",
            access_log=False,
            server_header=False,
        )


def _require_protected(
    host: str, names: list[str], token: str | None, certificate: Path | None, key: Path | None
) -> tuple[str, ...]:
    """Names under which it may be reached; beyond this machine only with TLS and a token.

    Raises:
        RunError: others could listen, or ask without being known.
    """
    if (certificate is None) != (key is None):
        raise RunError("--certificate and --key: give both or neither.")
    try:
        # Of IPv4: the host that a browser names cannot be checked for an IPv6 address.
        loopback = ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    if loopback:
        return (*_LOOPBACK, host, *names)
    if token is None or certificate is None or not names:
        raise RunError(
            f"--host {host}: beyond this machine it is served with --certificate and --key, "
            "--token-file and --name only, since inputs are patients' data."
        )
    return (*names,)


def _require_certificate(certificate: Path | None, key: Path | None) -> None:
    """Refuse files that TLS cannot use, before anything listens.

    Raises:
        RunError: they are not there, no PEM, or do not belong together.
    """
    if certificate is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise RunError(
            f"{certificate}, {key}: these are no certificate and key of one another "
            f"({type(error).__name__})."
        ) from error


def _token(file: Path) -> str:
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{file}: the token cannot be read ({type(error).__name__}).") from error
    if len(token) < _SHORTEST_TOKEN or not token.isprintable() or " " in token:
        raise RunError(
            f"{file}: a token has {_SHORTEST_TOKEN} characters or more and no blanks; write what "
            "`openssl rand -hex 32` prints into it."
        )
    return token
