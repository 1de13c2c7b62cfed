"""The proxy that the doctor names is the one that Flower's HTTP client takes."""

import httpx
import pytest

from wardround_client.doctor.way import way_to

PROXY = "http://proxy.example.org:3128"
NO_PROXY = (
    "",
    "*",
    "fl.example.org",
    "example.org",
    ".example.org",
    "*.example.org",
    "ple.org",
    "FL.EXAMPLE.ORG",
    "fl.example.org:9092",
    "fl.example.org:443",
    "example.org:9092",
    "https://fl.example.org",
    "http://fl.example.org",
    "all://example.org",
    "localhost",
    "127.0.0.1",
    "127.0.0.0/8",
    "10.1.2.3",
    "10.0.0.0/8",
    "::1",
    "a.org, fl.example.org ,b.org",
    "a.org,,b.org",
)
SERVERS = (
    "fl.example.org:9092",
    "example.org:9092",
    "myexample.org:9092",
    "localhost:9092",
    "127.0.0.1:9092",
    "10.1.2.3:9092",
    "[::1]:9092",
)


def httpx_takes_a_proxy(server: str) -> bool:
    with httpx.Client() as client:
        url = httpx.URL(f"https://{server}/")
        return client._transport_for_url(url) is not client._transport


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("no_proxy", NO_PROXY)
def test_no_proxy_is_read_as_httpx_reads_it(monkeypatch, server, no_proxy):
    environment = {"HTTPS_PROXY": PROXY, "NO_PROXY": no_proxy}
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (way_to(server, environment).proxy is not None) == httpx_takes_a_proxy(server)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"HTTPS_PROXY": PROXY},
        {"https_proxy": PROXY},
        {"https_proxy": "", "HTTPS_PROXY": PROXY},
        {"ALL_PROXY": PROXY},
        {"all_proxy": PROXY, "HTTP_PROXY": PROXY},
        {"HTTP_PROXY": PROXY},
        {"HTTPS_PROXY": ""},
        {"HTTPS_PROXY": "proxy.example.org:3128"},
        {"HTTPS_PROXY": PROXY, "no_proxy": "", "NO_PROXY": "*"},
    ],
)
def test_the_variables_are_read_as_httpx_reads_them(monkeypatch, environment):
    for name in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    way = way_to("fl.example.org:9092", environment)
    assert (way.proxy is not None) == httpx_takes_a_proxy("fl.example.org:9092")
    assert way.first == (
        ("fl.example.org", 9092) if way.proxy is None else ("proxy.example.org", 3128)
    )


@pytest.mark.parametrize(
    ("server", "entry"),
    [
        ("fl.example.org:9092", "*.example.org"),
        ("example.org:9092", ".example.org"),
        ("10.1.2.3:9092", "10.0.0.0/8"),
    ],
)
def test_an_entry_that_other_programs_heed_is_noted(server, entry):
    way = way_to(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": f"a.org,{entry}"})
    assert way.proxy is not None
    assert way.unheeded == entry


def test_an_address_of_ipv6_is_read():
    way = way_to("[2001:db8::1]:9092", {})
    assert (way.host, way.port) == ("2001:db8::1", 9092)
