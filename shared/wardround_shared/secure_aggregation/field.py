"""Arithmetic of GF(2^128), polynomial x^128 + x^7 + x^2 + x + 1, as far as interpolation goes.

An element is an integer whose bit i is the coefficient of x^i. Nothing here runs in constant time:
the server uses it on secrets that it is entitled to know.
"""

from collections.abc import Sequence

_POLYNOMIAL = (1 << 128) | 0b10000111
_BITS = 128


def multiply(a: int, b: int) -> int:
    """Product of two elements."""
    product = 0
    while b:
        low = b & -b
        product ^= a * low  # a shifted to the place of b's lowest bit
        b ^= low
    return _reduced(product)


def inverse(a: int) -> int:
    """The element whose product with `a` is one, by Euclid's extended algorithm; `a` is not 0."""
    u, v, g, h = a, _POLYNOMIAL, 1, 0
    while u != 1:
        shift = u.bit_length() - v.bit_length()
        if shift < 0:
            u, v, g, h, shift = v, u, h, g, -shift
        u ^= v << shift
        g ^= h << shift
    return _reduced(g)


def weights_at_zero(points: Sequence[int]) -> list[int]:
    """Lagrange's weights for the value at 0 of a polynomial that is known at distinct points.

    The weight of point i is the product over all other points j of j / (j - i).
    """
    weights = []
    for i in points:
        above, below = 1, 1
        for j in points:
            if j != i:
                above = multiply(above, j)
                below = multiply(below, j ^ i)
        weights.append(multiply(above, inverse(below)))
    return weights


def _reduced(product: int) -> int:
    while (excess := product.bit_length() - 1 - _BITS) >= 0:
        product ^= _POLYNOMIAL << excess
    return product
