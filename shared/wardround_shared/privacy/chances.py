"""Secret states for PyTorch's own generators, which dropout and augmentation draw from.

These change examples before they are clipped, and go by an example's place in the batch. A patient
more moves everybody behind to another place: were the draws known, that would change everybody's
gradient, and clipping each by itself would bound nothing. `Generator.manual_seed` is of no help: on
a CPU it keeps 32 bits of a seed, which can be tried one after the other.

The Mersenne Twister (Matsumoto and Nishimura 1998) is no cipher. Its draws are seen by nobody, and
what they do shows only in sums of gradients behind the noise.
"""

import numpy as np
import torch

from wardround_shared.errors import PrivacyError
from wardround_shared.privacy.noise import NoiseSource

# The state of a CPU generator (at::CPUGeneratorImpl): seed, two flags and a position, 24 bytes in
# all; the twister's words of 32 bits, in 8 bytes each; and what is left of a pair of normals.
_STATE_BYTES = 5056
_WORDS = 624
_FIRST_WORD = 24


def make_secret_(generator: torch.Generator, noise: NoiseSource) -> None:
    """Put a generator into a state that nobody can foresee.

    Args:
        generator: of a CPU: all 19,937 bits of its state are drawn. Of a GPU, where it is a counter
            under a key (Philox): the 63 bits of the key that a seed may have.
        noise: where they are drawn from.

    Raises:
        PrivacyError: this version of PyTorch keeps its state in another form.
    """
    if generator.device.type != "cpu":
        high, low = (noise.uniform(2) * 2.0**32).long().tolist()
        generator.manual_seed((high >> 1) << 32 | low)
        return
    generator.manual_seed(0)  # the next draw begins with a new round of the words
    state = generator.get_state().numpy().copy()
    words = state[_FIRST_WORD : _FIRST_WORD + 8 * _WORDS].view(np.uint64)
    if len(state) != _STATE_BYTES or not 0 < words.max() < 2**32:
        raise PrivacyError(
            "This version of PyTorch keeps the state of its random numbers in another form; "
            "install the one that wardround is tested with."
        )
    words[:] = (noise.uniform(_WORDS).numpy() * 2.0**32).astype(np.uint64)
    generator.set_state(torch.from_numpy(state))
