"""Differential privacy: noise, DP-SGD and its accounting.

The names below are the public face. They are imported on first use, because Opacus takes a second
to import and a server never trains.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wardround_shared.privacy.accounting import SampledGaussian as SampledGaussian
    from wardround_shared.privacy.accounting import Spent as Spent
    from wardround_shared.privacy.accounting import epsilon_by_rdp as epsilon_by_rdp
    from wardround_shared.privacy.accounting import epsilon_spent as epsilon_spent
    from wardround_shared.privacy.accounting import noise_multiplier_for as noise_multiplier_for
    from wardround_shared.privacy.accounting import require_reachable as require_reachable
    from wardround_shared.privacy.dp_sgd import DpSgd as DpSgd
    from wardround_shared.privacy.noise import InjectedNoise as InjectedNoise
    from wardround_shared.privacy.noise import NoiseSource as NoiseSource
    from wardround_shared.privacy.noise import SystemNoise as SystemNoise
    from wardround_shared.privacy.sampling import Patients as Patients
    from wardround_shared.privacy.sampling import poisson_batches as poisson_batches

_HOMES = {
    "DpSgd": "dp_sgd",
    "InjectedNoise": "noise",
    "NoiseSource": "noise",
    "Patients": "sampling",
    "SampledGaussian": "accounting",
    "Spent": "accounting",
    "SystemNoise": "noise",
    "epsilon_by_rdp": "accounting",
    "epsilon_spent": "accounting",
    "noise_multiplier_for": "accounting",
    "poisson_batches": "sampling",
    "require_reachable": "accounting",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
