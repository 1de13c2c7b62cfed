"""Two sites agree, nobody else does, and nothing is good for another purpose, round or pair."""

import dataclasses
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround_shared.secure_aggregation import keys
from wardround_shared.secure_aggregation.faults import MessageError, ShareError, SignatureError
from wardround_shared.secure_aggregation.keys import Identity, RoundContext

CONTEXT = RoundContext(
    protocol=1,
    study_id="ab" * 32,
    run="run",
    round=7,
    roster_digest=b"r" * 32,
    model_digest=b"m" * 32,
    layout_digest=b"l" * 32,
)
OTHERS = {
    "protocol": 2,
    "study_id": "ac" * 32,
    "run": "run2",
    "round": 8,
    "roster_digest": b"R" * 32,
    "model_digest": b"M" * 32,
    "layout_digest": b"L" * 32,
}


def test_every_part_of_the_context_is_varied_here():
    assert set(OTHERS) == {field.name for field in dataclasses.fields(RoundContext)}


def seeds(context=CONTEXT, mine=0, theirs=1):
    a, b = (struct.pack(">I", n) * 8 for n in (1, 2))
    left = keys.pairwise_seed(a, keys.public_key(b), context=context, mine=mine, theirs=theirs)
    right = keys.pairwise_seed(b, keys.public_key(a), context=context, mine=theirs, theirs=mine)
    return left, right


@pytest.mark.parametrize("sites", [(0, 1), (1, 0), (5, 1023)])
def test_both_sites_of_a_pair_agree(sites):
    left, right = seeds(mine=sites[0], theirs=sites[1])
    assert left == right
    assert len(left) == 32


@pytest.mark.parametrize("part", OTHERS)
def test_a_seed_is_good_for_one_context_only(part):
    other = dataclasses.replace(CONTEXT, **{part: OTHERS[part]})
    assert seeds(other)[0] != seeds()[0]
    secret = b"s" * 32
    assert keys.self_mask_seed(secret, context=other, site=1) != keys.self_mask_seed(
        secret, context=CONTEXT, site=1
    )


def test_seeds_differ_by_pair_and_by_role():
    assert len({seeds(mine=i, theirs=j)[0] for i, j in [(0, 1), (1, 0), (0, 2), (1, 2)]}) == 4


def test_self_masks_of_two_sites_differ_and_are_not_the_shared_secret():
    secret = os.urandom(32)
    derived = {keys.self_mask_seed(secret, context=CONTEXT, site=site) for site in (0, 1)}
    assert len(derived | {secret}) == 3


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_no_two_contexts_share_an_encoding(study, run, other_study, other_run):
    first = dataclasses.replace(CONTEXT, study_id=study, run=run)
    second = dataclasses.replace(CONTEXT, study_id=other_study, run=other_run)
    assert (first.encode() == second.encode()) == (first == second)


def test_a_context_that_cannot_be_encoded_is_refused():
    with pytest.raises(MessageError):
        dataclasses.replace(CONTEXT, model_digest=b"").encode()
    with pytest.raises(MessageError):
        dataclasses.replace(CONTEXT, run="r" * 256).encode()


class TestSealing:
    sender, receiver = (keys.new_pair(os.urandom) for _ in range(2))

    def sealed(self, plaintext=b"shares"):
        return keys.seal(
            plaintext,
            private=self.sender[0],
            public=self.receiver[1],
            context=CONTEXT,
            sender=3,
            receiver=4,
        )

    def opened(self, sealed, **changes):
        arguments = {
            "private": self.receiver[0],
            "public": self.sender[1],
            "context": CONTEXT,
            "sender": 3,
            "receiver": 4,
        }
        return keys.open_sealed(sealed, **(arguments | changes))

    @given(st.binary(max_size=100))
    def test_the_receiver_reads_what_the_sender_sealed(self, plaintext):
        assert self.opened(self.sealed(plaintext)) == plaintext

    @pytest.mark.parametrize("at", [0, 5, 6, 21])
    def test_one_changed_bit_is_noticed(self, at):
        sealed = bytearray(self.sealed())
        sealed[at] ^= 1
        with pytest.raises(ShareError):
            self.opened(bytes(sealed))

    @pytest.mark.parametrize("part", OTHERS)
    def test_it_opens_in_its_own_context_only(self, part):
        with pytest.raises(ShareError):
            self.opened(self.sealed(), context=dataclasses.replace(CONTEXT, **{part: OTHERS[part]}))

    def test_it_opens_for_its_own_pair_only(self):
        stranger = keys.new_pair(os.urandom)
        for change in (
            {"sender": 5},
            {"receiver": 5},
            {"public": stranger[1]},
            {"private": stranger[0]},
        ):
            with pytest.raises(ShareError):
                self.opened(self.sealed(), **change)

    def test_the_two_directions_have_different_keys(self):
        back = keys.seal(
            b"shares",
            private=self.receiver[0],
            public=self.sender[1],
            context=CONTEXT,
            sender=4,
            receiver=3,
        )
        assert back != self.sealed()
        with pytest.raises(ShareError):
            self.opened(back)

    def test_a_public_key_that_forces_the_secret_is_refused(self):
        with pytest.raises(MessageError):
            keys.seal(
                b"", private=self.sender[0], public=bytes(32), context=CONTEXT, sender=0, receiver=1
            )


class TestIdentity:
    def test_a_signature_is_accepted_by_its_own_key_over_its_own_message_only(self):
        identity, other = Identity(os.urandom(32)), Identity(os.urandom(32))
        signature = identity.sign(b"message")
        keys.verify(identity.public, signature, b"message")
        for public, message in ((identity.public, b"message2"), (other.public, b"message")):
            with pytest.raises(SignatureError):
                keys.verify(public, signature, message)

    @given(st.binary(max_size=80), st.binary(max_size=40))
    def test_malformed_keys_and_signatures_raise_that_and_nothing_else(self, signature, public):
        with pytest.raises(SignatureError):
            keys.verify(public, signature, b"message")

    def test_it_does_not_show_its_key(self):
        private = b"\x41" * 32
        assert "A" * 8 not in repr(Identity(private))
        assert private.hex()[:8] not in repr(Identity(private))
