"""From here to the server: name, connection, proxy, TLS, certificates, clock."""

import ssl
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from wardround_client.doctor.finding import Finding, fail, ok, warn
from wardround_client.doctor.look import Look, issuer_of, look_at
from wardround_client.doctor.surroundings import Examined, Machine
from wardround_client.doctor.way import ProxyRefusedError, Way, connect, way_to
from wardround_shared.errors import EnrolmentError

SOON = timedelta(days=30)
"""Before a certificate ends, so much time to renew it."""

# The server refuses a node whose signed time is outside of these: flwr 1.41,
# superlink/routers/fleet/node_auth.py with SYSTEM_TIME_TOLERANCE and TIMESTAMP_TOLERANCE.
MOST_AHEAD, MOST_BEHIND = timedelta(seconds=5), timedelta(seconds=305)
# What the comparison cannot tell from nothing.
_UNSURE_AHEAD, _UNSURE_BEHIND = timedelta(seconds=2), timedelta(seconds=30)

_EXPIRED, _NOT_YET, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64  # X509_V_ERR_...


def network_findings(examined: Examined, machine: Machine) -> Iterator[Finding]:
    """Every step of the way, up to the first that cannot be taken."""
    if examined.server is None:
        yield fail(
            "server",
            "This site has not joined, so it knows no server.",
            "Write a request with wardround-site join, and take the answer with the same command.",
        )
        return
    try:
        way = way_to(examined.server, machine.environment)
    except EnrolmentError as error:
        yield fail("server", str(error), "Correct the address.")
        return
    for step in (check_proxy, check_name, check_connection):
        finding = step(way, machine)
        yield finding
        if finding.state == "fail":
            return
    yield from check_tls(way, machine, examined.authorities)


def check_proxy(way: Way, machine: Machine) -> Finding:  # noqa: ARG001 (as the other steps)
    """Which proxy will be used."""
    if way.proxy is None:
        return ok("proxy", f"{way.host} is reached without a proxy.")
    named = f"{way.host} is reached through the proxy {way.proxy} ({way.proxy.variable})"
    if way.proxy.scheme != "http":
        return fail(
            "proxy",
            f"{named}, and only http:// proxies are supported.",
            f"Name one in {way.proxy.variable}, or put the server into NO_PROXY.",
        )
    if way.unheeded is not None:
        return warn(
            "proxy",
            f"{named}: NO_PROXY has {way.unheeded}, which is not heeded in that form.",
            f"If the server is to be reached without the proxy, write {way.host} itself there.",
        )
    return ok("proxy", f"{named}.")


def check_name(way: Way, machine: Machine) -> Finding:
    """Whether the first host on the way has an address; a proxy looks up the rest itself."""
    host, port = way.first
    try:
        found = machine.addresses(host, port)
    except OSError as error:
        return fail(
            "name",
            f"The name {host} has no address here ({error.strerror or error}).",
            "See to the DNS of this machine, or to the spelling in site.toml or of the proxy.",
        )
    return ok("name", f"{host} is {', '.join(found[:4])}.")


def check_connection(way: Way, machine: Machine) -> Finding:
    """Whether TCP gets through, and the proxy lets it on to the server."""
    host, port = way.first
    target = f"{way.host}:{way.port}"
    try:
        connect(way, machine).close()
    except ProxyRefusedError as error:
        return fail(
            "connection",
            f"The proxy {way.proxy} lets no connection to {target} through ({error}).",
            _proxy_remedy(error.status, target),
        )
    except OSError as error:
        return fail(
            "connection",
            f"Nobody answers at {host}, port {port} ({error.strerror or error}).",
            f"Ask for the firewall to let TCP connections out to {host}, port {port}; nothing has "
            "to come in.",
        )
    through = "" if way.proxy is None else ", through the proxy"
    return ok("connection", f"{target} is reached{through}.")


def _proxy_remedy(status: int, target: str) -> str:
    if status == 407:
        return "The proxy wants a name and a password: write http://name:password@host:port."
    if status in {502, 503, 504}:
        return f"The proxy cannot reach {target} itself; ask whoever keeps it."
    return f"Ask whoever keeps the proxy to allow CONNECT to {target}."


def check_tls(way: Way, machine: Machine, authorities: Path) -> Iterator[Finding]:
    """Whose certificate is shown, how long it and its authority last, and the clock."""
    try:
        pem = authorities.read_text(encoding="ascii")
        trusted = x509.load_pem_x509_certificates(pem.encode())
    except (OSError, ValueError):
        yield fail(
            "tls",
            "The CA certificate of the consortium is missing or damaged (server/ca.pem).",
            "Take the answer file again with wardround-site join.",
        )
        return
    try:
        look = look_at(way, machine, authorities=pem)
    except OSError as error:
        yield fail(
            "tls",
            f"Whoever answers at {way.host}, port {way.port}, does not speak TLS ({_said(error)}).",
            "See to the port in site.toml; a firewall that reads along may also cut it off.",
        )
        return
    now = machine.now()
    yield check_trust(way, look)
    yield check_dates(look.certificate, trusted, now)
    yield check_clock(look.ahead)


def check_trust(way: Way, look: Look) -> Finding:
    """Whether the consortium's authority has signed what is shown."""
    if look.distrust is None:
        return ok("tls", f"{way.host} shows a certificate of the consortium.")
    code = look.distrust.verify_code
    if code in {_EXPIRED, _NOT_YET}:
        return fail(
            "tls",
            "The certificate is not trusted, since it or its authority is not valid now.",
            "See the next two lines: it is the certificate, or this machine's clock.",
        )
    if code in {_OTHER_HOST, _OTHER_ADDRESS}:
        return fail(
            "tls",
            f"The certificate of the consortium that is shown is not for the name {way.host}.",
            "Use the name that the coordinating centre gave (site.toml), or have it put into the "
            "server's certificate.",
        )
    return fail(
        "tls",
        f"The certificate that is shown was not signed by the consortium but by "
        f"{issuer_of(look.certificate)}.",
        f"If that is a firewall of the hospital, have {way.host} taken out of TLS inspection; "
        "otherwise this is not the server: call the coordinating centre.",
    )


def check_dates(
    certificate: x509.Certificate, authorities: list[x509.Certificate], now: datetime
) -> Finding:
    """How long the server's certificate and its authority are valid; the last to end counts."""
    authority = max(authorities, key=lambda one: one.not_valid_after_utc)
    for whose, one in (("server's", certificate), ("consortium's CA", authority)):
        begin, end = one.not_valid_before_utc, one.not_valid_after_utc
        if now < begin:
            return fail(
                "dates",
                f"The {whose} certificate is valid from {begin:%Y-%m-%d %H:%M} UTC, and here it is "
                f"{now:%Y-%m-%d %H:%M}.",
                "See to the clock of this machine; if that is right, call the coordinating centre.",
            )
        if now > end:
            return fail(
                "dates",
                f"The {whose} certificate has ended on {end:%Y-%m-%d}.",
                "The coordinating centre has to renew it (wardround-server); see to the clock too.",
            )
    whose, end = min(
        ("server's", certificate.not_valid_after_utc),
        ("consortium's CA", authority.not_valid_after_utc),
        key=lambda pair: pair[1],
    )
    if end - now < SOON:
        return warn(
            "dates",
            f"The {whose} certificate ends on {end:%Y-%m-%d}, in {(end - now).days} days.",
            "Ask the coordinating centre to renew it.",
        )
    return ok("dates", f"The certificates are valid until {end:%Y-%m-%d} at least.")


def check_clock(ahead: timedelta | None) -> Finding:
    """Whether the server would take this site's signed times."""
    if ahead is None:
        return warn(
            "clock",
            "The server gives no date, so the clocks were not compared.",
            "See to it that this machine's clock is set by NTP.",
        )
    seconds = abs(ahead.total_seconds())
    said = f"{seconds:.1f} s {'ahead of' if ahead > timedelta(0) else 'behind'} the server's"
    remedy = "Have the clock set by NTP (timedatectl set-ntp true)."
    if ahead > MOST_AHEAD or -ahead > MOST_BEHIND:
        return fail(
            "clock",
            f"This machine's clock is {said}; the server takes {MOST_AHEAD.seconds} s ahead and "
            f"{MOST_BEHIND.seconds} s behind, and refuses this site.",
            remedy,
        )
    if ahead > _UNSURE_AHEAD or -ahead > _UNSURE_BEHIND:
        return warn("clock", f"This machine's clock is {said}, and soon too much so.", remedy)
    return ok("clock", f"This machine's clock agrees with the server's ({said}).")


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    return error.strerror or str(error) or type(error).__name__
