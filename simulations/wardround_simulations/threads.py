"""How many threads torch may use."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Hold torch to one thread, as every site: sums over several differ in their last bits."""
    import torch  # noqa: PLC0415  (a second that workers use to warm up)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
