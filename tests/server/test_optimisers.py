"""Server steps against hand-worked values."""

import numpy as np

from wardround_server.optimisers import FedAdam, FedAvg, server_optimiser
from wardround_shared.study import Training


def test_fedavg_with_rate_one_lands_on_the_weighted_mean_of_the_models():
    start = np.array([1.0, 2.0], np.float32)
    models, weights = [start + 1, start - 3], [3.0, 1.0]
    mean = sum(w * (m - start) for w, m in zip(weights, models, strict=True)) / sum(weights)
    moved = FedAvg(1.0).step(start, mean.astype(float))
    np.testing.assert_allclose(moved, np.average(models, axis=0, weights=weights))
    assert moved.dtype == np.float32


def test_fedadam_first_step_is_the_rate_in_the_direction_of_the_delta():
    moved = FedAdam(0.1).step(np.zeros(3, np.float32), np.array([5.0, -0.5, 0.0]))
    # After bias correction the first step is rate * d / (|d| + tau).
    np.testing.assert_allclose(moved, [0.1 * 5 / 5.001, -0.1 * 0.5 / 0.501, 0.0], rtol=1e-6)


def test_fedadam_second_step_known_answer():
    optimiser = FedAdam(1.0)
    first = optimiser.step(np.zeros(1, np.float32), np.array([1.0]))
    second = optimiser.step(first, np.array([-1.0]))
    mean = (0.9 * 0.1 * 1 + 0.1 * -1) / (1 - 0.9**2)
    square = (0.99 * 0.01 + 0.01) / (1 - 0.99**2)
    np.testing.assert_allclose(second - first, mean / (np.sqrt(square) + 1e-3), rtol=1e-5)


def test_the_strategy_chooses_the_optimiser():
    def training(**keys: object) -> Training:
        return Training.model_validate({"rounds": 1, "learning-rate": 0.1, **keys})

    assert isinstance(server_optimiser(training()), FedAvg)
    assert isinstance(server_optimiser(training(strategy="fedprox", proximal=0.1)), FedAvg)
    assert isinstance(server_optimiser(training(strategy="fedadam")), FedAdam)
