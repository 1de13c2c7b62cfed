"""GF(2^128) against its own laws and against the library that splits the secrets."""

from Crypto.Protocol.SecretSharing import Shamir
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.secure_aggregation.field import inverse, multiply, weights_at_zero
from wardround_shared.secure_aggregation.shares import combine_all, split

elements = st.integers(0, 2**128 - 1)


@given(elements, elements, elements)
def test_the_laws_of_a_field(a, b, c):
    assert multiply(a, b) == multiply(b, a)
    assert multiply(a, multiply(b, c)) == multiply(multiply(a, b), c)
    assert multiply(a, b ^ c) == multiply(a, b) ^ multiply(a, c)
    assert multiply(a, 1) == a


@given(st.integers(1, 2**128 - 1))
def test_every_element_but_zero_has_an_inverse(a):
    assert multiply(a, inverse(a)) == 1


def test_known_product_of_the_standard():
    """NIST SP 800-38D's field has the same polynomial, its bits the other way round."""
    assert multiply(1 << 127, 2) == 0b10000111


@given(st.binary(min_size=16, max_size=16), st.integers(2, 6), st.integers(0, 4))
def test_interpolation_agrees_with_the_library(secret, threshold, more):
    points = Shamir.split(threshold, threshold + more, secret, ssss=False)[-threshold:]
    weights = weights_at_zero([index for index, _ in points])
    total = 0
    for weight, (_, value) in zip(weights, points, strict=True):
        total ^= multiply(weight, int.from_bytes(value, "big"))
    assert total.to_bytes(16, "big") == secret == Shamir.combine(points, ssss=False)


def test_many_secrets_are_rebuilt_at_once():
    secrets = [bytes([n]) * 32 for n in range(5)]
    dealt = [split(secret, threshold=3, sites=5) for secret in secrets]
    assert combine_all([shares[1:] for shares in dealt], threshold=3) == secrets
