"""The server's settings, server.toml."""

import tomllib
from typing import Annotated, Self

from pydantic import Field, ValidationError, model_validator

from wardround_shared.consortium.documents import first_fault
from wardround_shared.consortium.fields import Address, Host, Port, split_address
from wardround_shared.errors import EnrolmentError
from wardround_shared.study.section import Section

_TEMPLATE = """\
# Settings of this Wardround server. Changes take effect when it is started again.

# Where sites reach the server from outside: host:port. It stands in the answer that each site gets;
# sites that have joined keep the one that they were given (`server` in their site.toml).
address = "{address}"

[certificate]
# What the server's certificate is for: host names and IP addresses by which sites reach it, that of
# `address` among them. After a change: wardround-server certificates renew.
names = [{names}]

[listen]
# The one port that sites reach, with TLS. Behind a port forwarding it may differ from `address`.
host = "{listen_host}"
port = {listen_port}

[health]
# gRPC health (grpc.health.v1), for whatever watches over this machine; without TLS.
host = "127.0.0.1"
port = {health_port}

[metrics]
# Prometheus reads http://host:port/metrics; without TLS.
host = "127.0.0.1"
port = {metrics_port}

# The consortium's private key has no setting. While it lies in consortium/private.pem, whoever
# takes over this machine can admit sites of his own. It is needed only to admit and revoke sites
# and to change the certificate authority: keep it on a medium in a safe, and name it then,
#   wardround-server admit FILE --consortium-key /media/key/private.pem
"""


class CertificateSettings(Section):
    """`[certificate]`: names and IP addresses that the server's certificate is for."""

    names: Annotated[tuple[Host, ...], Field(min_length=1, max_length=32)]


class ListenSettings(Section):
    """`[listen]`: where the public port is opened."""

    host: Host = "0.0.0.0"  # noqa: S104 - sites come from outside
    port: Port = 9092


class HealthSettings(Section):
    """`[health]`: where gRPC health is answered."""

    host: Host = "127.0.0.1"
    port: Port = 9093


class MetricsSettings(Section):
    """`[metrics]`: where Prometheus is answered."""

    host: Host = "127.0.0.1"
    port: Port = 9094


class ServerSettings(Section):
    """A whole server.toml.

    Attributes:
        address: `host:port` at which sites reach the server.
    """

    address: Address
    certificate: CertificateSettings
    listen: ListenSettings = ListenSettings()
    health: HealthSettings = HealthSettings()
    metrics: MetricsSettings = MetricsSettings()

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        host, _ = split_address(self.address)
        if host not in self.certificate.names:
            raise ValueError(f"certificate.names: the host of the address, {host}, is missing")
        ports = (self.listen.port, self.health.port, self.metrics.port)
        if len(set(ports)) != len(ports):
            raise ValueError("listen, health and metrics: the three ports must differ")
        return self


def parse_settings(text: str, *, origin: str) -> ServerSettings:
    """Check the text of a server.toml; `origin` names it in errors.

    Raises:
        EnrolmentError: naming file, key and value.
    """
    try:
        return ServerSettings.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise EnrolmentError(f"{origin}: this is not a TOML file ({error}).") from error
    except ValidationError as error:
        raise EnrolmentError(f"{origin}: {first_fault(error)}.") from error


def settings_text(
    *,
    address: str,
    names: tuple[str, ...] = (),
    listen_host: str | None = None,
    listen_port: int | None = None,
    health_port: int | None = None,
    metrics_port: int | None = None,
) -> str:
    """A server.toml with its comments; what is left out has its usual value.

    Args:
        address: `host:port`; the port is listened at too, unless `listen_port` says otherwise.
        names: further names for the certificate, beside the address's host.
        listen_host: address of this machine at which the public port is opened.
        listen_port: the public port.
        health_port: of gRPC health.
        metrics_port: of Prometheus.

    Raises:
        EnrolmentError: one of them cannot stand there.
    """
    try:
        host, port = split_address(address)
    except ValueError as error:
        raise EnrolmentError(f"address: {address[:80]} is not allowed here, {error}.") from error
    text = _TEMPLATE.format(
        address=address,
        names=", ".join(f'"{name}"' for name in dict.fromkeys((host, *names))),
        listen_host=listen_host or ListenSettings().host,
        listen_port=listen_port or port,
        health_port=health_port or HealthSettings().port,
        metrics_port=metrics_port or MetricsSettings().port,
    )
    parse_settings(text, origin="server.toml")
    return text
