"""The way to the server: each thing that hospitals' networks do to it is named, with a remedy."""

import base64
import datetime
import socket
import ssl
from dataclasses import replace

import pytest
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

from wardround_client.doctor.network import (
    MOST_AHEAD,
    MOST_BEHIND,
    check_clock,
    network_findings,
)


@pytest.fixture
def found(home, machine):
    """Findings by check, with a home whose server is at a port of loopback."""

    def look(port, *, host="127.0.0.1", **changes):
        examined = replace(home.examined, server=f"{host}:{port}")
        findings = list(network_findings(examined, machine(**changes)))
        for finding in findings:
            assert finding.sentence.endswith(".")
            assert (finding.state == "ok") != bool(finding.remedy)
        return {finding.check: finding for finding in findings}

    return look


ALL = ["proxy", "name", "connection", "tls", "dates", "clock"]


def test_a_server_that_is_in_order_is_ok_in_everything(found, tls_server):
    findings = found(tls_server().port)
    assert list(findings) == ALL
    assert {finding.state for finding in findings.values()} == {"ok"}


def test_a_site_that_has_not_joined_is_told_to(home, machine):
    (finding,) = network_findings(replace(home.examined, server=None), machine())
    assert finding.state == "fail"
    assert "wardround-site join" in finding.remedy


@pytest.mark.parametrize("server", ["", "host", "host:", ":9092", "host:0", "host:70000", "a:b"])
def test_an_address_that_is_none_is_named(home, machine, server):
    (finding,) = network_findings(replace(home.examined, server=server), machine())
    assert finding.state == "fail"
    assert repr(server) in finding.sentence


# --- name and connection -------------------------------------------------------------------------


def test_a_name_without_address_ends_the_way(found):
    def nobody(host, port):
        raise socket.gaierror(-2, "Name or service not known")

    tried = []
    findings = found(9092, host="server.example.org", addresses=nobody, connect=tried.append)
    assert list(findings) == ["proxy", "name"]
    assert findings["name"].state == "fail"
    assert "server.example.org has no address here (Name or service" in findings["name"].sentence
    assert "DNS" in findings["name"].remedy
    assert tried == []


def test_a_port_where_nobody_listens_asks_for_the_firewall(found, listen):
    closed = listen(lambda opened: None)
    closed.close()
    findings = found(closed.port)
    assert list(findings) == ["proxy", "name", "connection"]
    assert f"127.0.0.1, port {closed.port}" in findings["connection"].sentence
    assert "firewall" in findings["connection"].remedy


def test_a_silent_firewall_is_a_connection_that_fails(found):
    def silent(address, patience):
        raise TimeoutError("timed out")

    findings = found(9092, connect=silent)
    assert findings["connection"].state == "fail"
    assert "timed out" in findings["connection"].sentence


# --- proxy -----------------------------------------------------------------------------------


def test_through_a_proxy_everything_is_checked_as_well(found, tls_server, proxy):
    server, between = tls_server(), proxy()
    findings = found(server.port, environment={"HTTPS_PROXY": f"http://127.0.0.1:{between.port}"})
    assert list(findings) == ALL
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert f"proxy http://127.0.0.1:{between.port} (HTTPS_PROXY)" in findings["proxy"].sentence
    assert between.asked == [f"CONNECT 127.0.0.1:{server.port} HTTP/1.1"] * 2
    assert "through the proxy" in findings["connection"].sentence


def test_the_server_s_name_is_left_to_the_proxy(found, proxy):
    asked = []

    def addresses(host, port):
        asked.append((host, port))
        return ["127.0.0.1"]

    between = proxy(status=502)
    found(
        9092,
        host="only-outside.example.org",
        addresses=addresses,
        environment={"https_proxy": f"127.0.0.1:{between.port}"},
    )
    assert asked == [("127.0.0.1", between.port)]


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "allow CONNECT to 127.0.0.1:9"), (407, "password"), (502, "cannot reach")],
)
def test_a_proxy_that_refuses_is_told_from_a_server_that_is_not_there(found, proxy, status, words):
    between = proxy(status=status)
    findings = found(9, environment={"HTTPS_PROXY": f"http://127.0.0.1:{between.port}"})
    assert list(findings) == ["proxy", "name", "connection"]
    assert str(status) in findings["connection"].sentence
    assert words in findings["connection"].remedy


def test_name_and_password_are_given_to_the_proxy_and_never_shown(found, tls_server, proxy):
    login = base64.b64encode(b"jane:s/cret").decode()
    between = proxy(login=login)
    server = tls_server()
    url = f"http://jane:s%2Fcret@127.0.0.1:{between.port}"
    findings = found(server.port, environment={"HTTPS_PROXY": url})
    assert {finding.state for finding in findings.values()} == {"ok"}
    assert not any("cret" in f.sentence or "jane" in f.sentence for f in findings.values())
    wrong = found(server.port, environment={"HTTPS_PROXY": url.replace("s%2Fcret", "wrong")})
    assert "407" in wrong["connection"].sentence


def test_what_is_no_proxy_is_not_believed(found, listen):
    chatty = listen(lambda opened: opened.sendall(b"SSH-2.0-x\r\n\r\n"))
    findings = found(9, environment={"HTTPS_PROXY": f"http://127.0.0.1:{chatty.port}"})
    assert "not HTTP" in findings["connection"].sentence


def test_other_kinds_of_proxies_are_refused_in_words(found):
    findings = found(9, environment={"ALL_PROXY": "socks5://127.0.0.1:1080"})
    assert list(findings) == ["proxy"]
    assert "only http:// proxies" in findings["proxy"].sentence


def test_a_proxy_without_address_is_named_without_its_value(found):
    findings = found(9, environment={"HTTPS_PROXY": "http://jane:secret@:80x"})
    assert "HTTPS_PROXY: this is no address" in findings["server"].sentence
    assert "secret" not in findings["server"].sentence


def test_an_exception_that_is_not_heeded_is_a_warning(found, tls_server, proxy):
    between = proxy()
    environment = {"HTTPS_PROXY": f"http://127.0.0.1:{between.port}", "NO_PROXY": "127.0.0.0/8"}
    findings = found(tls_server().port, environment=environment)
    assert findings["proxy"].state == "warn"
    assert "127.0.0.0/8" in findings["proxy"].sentence
    assert "write 127.0.0.1 itself" in findings["proxy"].remedy


# --- TLS -------------------------------------------------------------------------------------


def test_a_firewall_that_opens_tls_is_named_by_its_issuer(found, tls_server, tmp_path, authority):
    firewall = type(authority)("Corporate Inspection")
    findings = found(tls_server(firewall.server(tmp_path)).port)
    assert list(findings) == ALL
    assert findings["tls"].state == "fail"
    assert "by Corporate Inspection Ltd, Corporate Inspection." in findings["tls"].sentence
    assert "TLS inspection" in findings["tls"].remedy
    assert findings["clock"].state == "ok"


def test_an_issuer_cannot_steer_the_terminal(found, tls_server, tmp_path, authority):
    evil = type(authority)("x\x1b[2J\nok")
    sentence = found(tls_server(evil.server(tmp_path)).port)["tls"].sentence
    assert sentence.isprintable()


def test_an_expired_certificate_is_told_with_its_date(found, tls_server, tmp_path, authority):
    server = tls_server(authority.server(tmp_path, days=-2, began=30))
    findings = found(server.port)
    ended = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2)
    assert findings["tls"].state == findings["dates"].state == "fail"
    assert f"server's certificate has ended on {ended:%Y-%m-%d}" in findings["dates"].sentence


def test_a_certificate_of_the_future_points_to_the_clock(found, tls_server, tmp_path, authority):
    findings = found(tls_server(authority.server(tmp_path, days=9, began=-2)).port)
    assert findings["tls"].state == findings["dates"].state == "fail"
    assert "clock" in findings["dates"].remedy


@pytest.mark.parametrize(
    "case",
    [(10, "The server's certificate ends on"), (300, "The consortium's CA certificate ends on")],
)
def test_the_last_month_of_a_certificate_is_a_warning(found, tls_server, home, authority, case):
    days, sentence = case
    short = type(authority)("Short", days=20)
    home.examined.authorities.write_text(short.pem)
    findings = found(tls_server(short.server(home.examined.home, days=days)).port)
    assert findings["tls"].state == "ok"
    assert findings["dates"].state == "warn"
    assert findings["dates"].sentence.startswith(sentence)
    assert f"in {min(days, 20) - 1} days" in findings["dates"].sentence


def test_of_two_authorities_the_one_that_lasts_counts(found, tls_server, home, authority):
    old = type(authority)("Old", days=-1, began=30)
    home.examined.authorities.write_text(old.pem + authority.pem)
    findings = found(tls_server().port)
    assert {finding.state for finding in findings.values()} == {"ok"}


def test_a_certificate_for_another_name_is_told(found, tls_server, tmp_path, authority):
    pem = authority.server(tmp_path, names=("fl.example.org",))
    findings = found(tls_server(pem).port)
    assert findings["tls"].state == "fail"
    assert "not for the name 127.0.0.1" in findings["tls"].sentence


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_server_without_tls_is_told(found, listen, answer):
    plain = listen(lambda opened: (opened.recv(4096), answer and opened.sendall(answer)))
    findings = found(plain.port)
    assert list(findings) == ["proxy", "name", "connection", "tls"]
    assert "does not speak TLS" in findings["tls"].sentence


@pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nx\n", "é"])
def test_without_the_consortium_s_authority_nothing_is_trusted(found, tls_server, home, content):
    if content is None:
        home.examined.authorities.unlink()
    else:
        home.examined.authorities.write_text(content, encoding="utf-8")
    findings = found(tls_server().port)
    assert list(findings)[-1] == "tls"
    assert "missing or damaged" in findings["tls"].sentence


def test_no_secret_of_the_site_is_sent(found, listen, authority, tmp_path):
    sent = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority.server(tmp_path))

    def answer(opened):
        with context.wrap_socket(opened, server_side=True) as secure:
            sent.append(secure.recv(4096))

    server = listen(answer)
    findings = found(server.port)
    assert findings["clock"].state == "warn"
    assert sent[-1].decode() == ("HEAD / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")


# --- clock -----------------------------------------------------------------------------------


def test_the_tolerance_is_that_of_flower():
    assert MOST_AHEAD.total_seconds() == SYSTEM_TIME_TOLERANCE
    assert MOST_BEHIND.total_seconds() == TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE


@pytest.mark.parametrize(
    ("skew", "state", "words"),
    [
        (0.0, "ok", "agrees"),
        (-8.0, "fail", "ahead of"),
        (-3600.0, "fail", "ahead of"),
        (20.0, "ok", "behind"),
        (60.0, "warn", "behind"),
        (400.0, "fail", "behind"),
    ],
)
def test_a_clock_is_compared_with_the_servers(found, tls_server, skew, state, words):
    finding = found(tls_server(skew=skew).port)["clock"]
    assert finding.state == state
    assert words in finding.sentence


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        (1.9, "ok"),
        (2.1, "warn"),
        (5.0, "warn"),
        (5.1, "fail"),
        (-30, "ok"),
        (-31, "warn"),
        (-305, "warn"),
        (-306, "fail"),
    ],
)
def test_where_a_clock_is_refused(seconds, state):
    assert check_clock(datetime.timedelta(seconds=seconds)).state == state


def test_a_server_without_a_date_is_a_warning(found, tls_server):
    assert found(tls_server(date=False).port)["clock"].state == "warn"
