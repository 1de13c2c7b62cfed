"""Known answers, worked out by another implementation; bad inputs fail with the class named."""

import json
from pathlib import Path

import numpy as np
import pytest

from wardround_shared import errors
from wardround_shared.secure_aggregation import faults, keys
from wardround_shared.secure_aggregation.masks import Mask, add_masks
from wardround_shared.secure_aggregation.quantisation import Segment, VectorLayout, quantise
from wardround_shared.secure_aggregation.shares import combine

FOLDER = Path(__file__).parents[2] / "vectors"
HEX = ("private", "public", "self_seed", "sealed", "message", "signature")


def vectors(name):
    document = json.loads((FOLDER / f"secure-aggregation-{name}.json").read_text(encoding="utf-8"))
    return [pytest.param(vector, id=vector["name"]) for vector in document["vectors"]]


def check(vector, call):
    """Call it; a vector with an error must fail with exactly that class."""
    if "error" not in vector:
        return call()
    kind = getattr(faults, vector["error"], None) or getattr(errors, vector["error"])
    with pytest.raises(kind) as raised:
        call()
    assert raised.type is kind
    return None


@pytest.mark.parametrize("vector", vectors("masks"))
def test_masks(vector):
    words = np.array(vector["vector"], dtype=np.uint32)
    masks = [Mask(seed=bytes.fromhex(one["seed"]), negate=one["negate"]) for one in vector["masks"]]
    check(vector, lambda: add_masks(words, masks, wide=vector["wide"]))
    assert words.tolist() == vector.get("output", vector["vector"])  # unchanged by a refusal


@pytest.mark.parametrize("vector", vectors("quantiser"))
def test_quantiser(vector):
    def call():
        layout = VectorLayout(
            segments=tuple(Segment(**segment) for segment in vector["layout"]["segments"]),
            sites=vector["layout"]["sites"],
            ring_bits=vector["layout"]["ring_bits"],
        )
        values = [np.array(part, dtype=np.float32) for part in vector["values"]]
        out = np.full(layout.words, 0xDEADBEEF, dtype=np.uint32)
        clamped = quantise(values, layout, lambda _: bytes.fromhex(vector["key"]), out)
        return layout, out, clamped

    if answer := check(vector, call):
        layout, out, clamped = answer
        assert out.tolist() == vector["output"]
        assert clamped == vector["clamped"]
        assert layout.digest().hex() == vector["digest"]
        assert [layout.scale(segment) for segment in layout.segments] == vector["scales"]


def function(vector):
    arguments = {
        key: bytes.fromhex(value) if key in HEX else value
        for key, value in vector.items()
        if key in (*HEX, "mine", "theirs", "site", "sender", "receiver")
    }
    if "context" in vector:
        arguments["context"] = keys.RoundContext(
            **{
                key: bytes.fromhex(value) if key.endswith("digest") else value
                for key, value in vector["context"].items()
            }
        )
    if vector["function"] == "verify":
        del arguments["private"]
        return lambda: keys.verify(**arguments) or b""
    return lambda: getattr(keys, vector["function"])(**arguments)


@pytest.mark.parametrize("vector", vectors("keys"))
def test_keys(vector):
    answer = check(vector, function(vector))
    if answer is not None:
        assert answer.hex() == vector["output"]


@pytest.mark.parametrize("vector", vectors("shares"))
def test_shares(vector):
    shares = [bytes.fromhex(share) for share in vector["shares"]]
    secret = check(vector, lambda: combine(shares, threshold=vector["threshold"]))
    if secret is not None:
        assert secret.hex() == vector["output"]
        assert secret.hex() != vector.get("not")
