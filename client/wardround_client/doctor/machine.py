"""This machine: disk, permissions, GPU, versions."""

import os
import stat
from collections.abc import Iterator

from wardround_client.doctor.finding import Finding, fail, ok, warn
from wardround_client.doctor.surroundings import Examined, Machine
from wardround_client.policy import load_policy
from wardround_shared import __version__
from wardround_shared.errors import PolicyError
from wardround_shared.flower import TESTED
from wardround_shared.messages import PROTOCOL_VERSION

_GB = 1024**3
LITTLE_BYTES, FEW_BYTES = _GB // 2, 5 * _GB
"""Free space below which a site fails, and below which it is warned."""


def machine_findings(examined: Examined, machine: Machine) -> Iterator[Finding]:
    """Everything about the machine."""
    yield check_disk(examined, machine)
    yield check_permissions(examined)
    yield check_gpu(examined, machine)
    yield check_versions(machine)


def check_disk(examined: Examined, machine: Machine) -> Finding:
    """Whether there is room for ledger, log and cache."""
    try:
        free = machine.free_bytes(examined.home)
    except OSError as error:
        return fail(
            "disk",
            f"The disk under {examined.home} cannot be asked ({error.strerror}).",
            "Name the site's folder with --home.",
        )
    said = f"{free / _GB:.1f} GB are free under {examined.home}"
    if free < LITTLE_BYTES:
        return fail("disk", f"{said}.", "Free some space: without it nothing can be reserved.")
    if free < FEW_BYTES:
        return warn("disk", f"{said}.", "A cohort of images may need more: free some space.")
    return ok("disk", f"{said}.")


def check_permissions(examined: Examined) -> Finding:
    """Whether home and keys are this user's, and nobody else can read them."""
    for place, wanted in ((examined.home, 0o700), *((file, 0o600) for file in examined.secrets)):
        try:
            status = place.stat()
        except OSError as error:
            return fail(
                "permissions",
                f"{place}: it is missing or cannot be looked at ({error.strerror}).",
                "Bring it back from a backup, or run this as the site's own user.",
            )
        if status.st_uid != os.geteuid():
            return fail(
                "permissions",
                f"{place} belongs to another user (number {status.st_uid}).",
                "Run this as the site's own user, or give it the file with chown.",
            )
        if stat.S_IMODE(status.st_mode) & 0o077:
            return fail(
                "permissions",
                f"{place} can be read or written by other users of this machine.",
                f"chmod {wanted:o} {place}",
            )
    return ok("permissions", "Home and keys are for the site's user alone.")


def check_gpu(examined: Examined, machine: Machine) -> Finding:
    """Whether there is the device that the policy names."""
    try:
        device = load_policy(examined.policy).rules.device
    except PolicyError:
        device = "auto"  # what is wrong with the policy is told elsewhere
    if device == "cpu":
        return ok("gpu", 'The policy says device = "cpu": no GPU is used.')
    found = machine.gpu()
    if found is not None:
        return ok("gpu", f"{found} is used.")
    if device == "cuda":
        return fail(
            "gpu",
            'The policy says device = "cuda", and no GPU can be used here.',
            'See to the driver (nvidia-smi) and to a CUDA build of torch, or write "auto".',
        )
    return ok("gpu", "There is no GPU; the CPU is used.")


def check_versions(machine: Machine) -> Finding:
    """Whether Flower is the version that this release was tested with."""
    ours = f"wardround {__version__}, protocol {PROTOCOL_VERSION}"
    found = machine.flwr()
    if found != TESTED:
        return fail(
            "versions",
            f"flwr {found} is installed, and {ours} was tested with {TESTED} only.",
            f"pip install flwr=={TESTED}",
        )
    return ok("versions", f"{ours}, flwr {found}; the server checks that its own fit.")
