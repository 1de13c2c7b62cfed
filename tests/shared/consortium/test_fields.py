"""Names, addresses, times and keys have one spelling each."""

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import TypeAdapter, ValidationError

from wardround_shared.consortium import fields

KEY = ec.generate_private_key(ec.SECP384R1()).public_key()
LINE = fields.node_key_line(KEY)


def refused(kind, value):
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_python(value)


@pytest.mark.parametrize("name", ["a", "Hospital-3", "9", "x" * 64])
def test_names_of_sites(name):
    assert TypeAdapter(fields.SiteName).validate_python(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x" * 65,
        "-a",
        "a-",
        "--all",
        "a b",
        "a/b",
        "..",
        "a.b",
        "a_b",
        "a\n",
        "ä",
        "a\0",
        "\u0410",
    ],
)
def test_names_that_could_be_mistaken(name):
    refused(fields.SiteName, name)


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("fl.example.org:9092", ("fl.example.org", 9092)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[2001:db8::1]:65535", ("2001:db8::1", 65535)),
        ("localhost:443", ("localhost", 443)),
    ],
)
def test_addresses(address, parts):
    assert fields.split_address(address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "fl.example.org",
        ":9092",
        "fl.example.org:",
        "fl.example.org:0",
        "fl.example.org:65536",
        "fl.example.org:09092",
        "fl.example.org:9092\n",
        "FL.example.org:9092",
        "https://fl.example.org:9092",
        "a@b:1",
        "2001:db8::1:9092",
        "[localhost]:9092",
        "[10.0.0.1]:9092",
        "[2001:0db8::1]:9092",
        "[fe80::1%eth0]:9092",
        "10.0.0.300:9092",
        "10.0.0.01:9092",
        "-a.org:1",
        "a..org:1",
        'a":1',
    ],
)
def test_addresses_that_are_none(address):
    refused(fields.Address, address)


@pytest.mark.parametrize("day", ["20260131", "2026-1-31", "2026-02-30", "2026-01-31 "])
def test_days_that_are_none(day):
    refused(fields.IsoDay, day)


@pytest.mark.parametrize(
    "time",
    ["2026-01-31", "2026-01-31T12:00:00", "2026-01-31T12:00:00+00:00", "2026-1-31T12:00:00Z"],
)
def test_times_that_are_none(time):
    refused(fields.IsoTime, time)


def other_keys():
    small = ec.generate_private_key(ec.SECP256R1()).public_key()
    signs = ed25519.Ed25519PrivateKey.generate().public_key()
    for key in (small, signs):
        yield key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    yield from (f"{LINE} comment", f"{LINE}\n", f" {LINE}", LINE[:-4], "", "ssh-rsa AAAA")


# Keys are new each time, and workers have to agree on the names of tests.
@pytest.mark.parametrize("line", list(other_keys()), ids=lambda line: str(len(line)))
def test_node_keys_are_of_p384_in_one_spelling(line):
    assert TypeAdapter(fields.NodeKeyLine).validate_python(LINE) == LINE
    refused(fields.NodeKeyLine, line)


def test_flower_takes_the_node_key_in_its_own_form():
    from flwr.supercore.primitives.asymmetric import (
        bytes_to_public_key,
        public_key_to_bytes,
        uses_nist_ec_curve,
    )

    pem = fields.node_key_pem(LINE)
    assert uses_nist_ec_curve(bytes_to_public_key(pem))
    # A SuperNode announces itself with these bytes, and the SuperLink compares them.
    assert pem == public_key_to_bytes(KEY)


@pytest.mark.parametrize("digits", ["0" * 63, "0" * 65, "A" * 64, "0" * 63 + "g", "0" * 64 + "\n"])
def test_keys_in_hex_are_of_one_length_and_case(digits):
    TypeAdapter(fields.Ed25519Hex).validate_python("0" * 64)
    refused(fields.Ed25519Hex, digits)
