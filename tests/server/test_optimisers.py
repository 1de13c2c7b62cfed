"""Server steps against hand-worked values."""

import numpy as np

from wardround_server.optimisers import FedAdam, FedAvg, server_optimiser
from wardround_shared.steps import Steps
from wardround_shared.study import Training


def steps(values):
    """These values, all multiples of 2^-20, as a sum has them."""
    counts = np.asarray(values, float) * 2.0**20
    assert (counts == np.rint(counts)).all()
    return Steps(counts=counts.astype(np.int64), divisors=(2.0**20,))


def test_fedavg_with_rate_one_lands_on_the_weighted_mean_of_the_models():
    start = np.array([1.0, 2.0], np.float32)
    models, weights = [start + 1, start - 3], [3.0, 1.0]
    mean = sum(w * (m - start) for w, m in zip(weights, models, strict=True)) / sum(weights)
    moved = FedAvg(1.0).step(start, steps(mean))
    np.testing.assert_allclose(moved, np.average(models, axis=0, weights=weights))
    assert moved.dtype == np.float32


def test_fedadam_first_step_is_the_rate_in_the_direction_of_the_delta():
    moved = FedAdam(0.1).step(np.zeros(3, np.float32), steps([5.0, -0.5, 0.0]))
    # After bias correction the first step is rate * d / (|d| + tau).
    np.testing.assert_allclose(moved, [0.1 * 5 / 5.001, -0.1 * 0.5 / 0.501, 0.0], rtol=1e-6)


def test_fedadam_second_step_known_answer():
    optimiser = FedAdam(1.0)
    first = optimiser.step(np.zeros(1, np.float32), steps([1.0]))
    second = optimiser.step(first, steps([-1.0]))
    mean = (0.9 * 0.1 * 1 + 0.1 * -1) / (1 - 0.9**2)
    square = (0.99 * 0.01 + 0.01) / (1 - 0.99**2)
    np.testing.assert_allclose(second - first, mean / (np.sqrt(square) + 1e-3), rtol=1e-5)


def test_block_by_block_is_to_the_last_bit_what_the_whole_vector_gives():
    """150,000 values are three blocks; the formulas are those of the papers, on whole arrays."""
    random = np.random.default_rng(0)
    start = random.normal(size=150_000).astype(np.float32)
    counts = random.integers(-(2**31), 2**31, size=(2, 150_000)).astype(np.int32)
    mean, square, adam, avg = 0.0, 0.0, FedAdam(0.03), FedAvg(0.7)
    stepped = {"adam": start, "avg": start}
    whole = dict(stepped)
    for number, row in enumerate(counts, start=1):
        delta = Steps(counts=row, divisors=(2.0**21, 317.0))
        stepped["adam"] = adam.step(stepped["adam"], delta)
        stepped["avg"] = avg.step(stepped["avg"], delta)
        values = row / 2.0**21 / 317.0
        mean = 0.9 * mean + (1 - 0.9) * values
        square = 0.99 * square + (1 - 0.99) * values**2
        root = np.sqrt(square / (1 - 0.99**number))
        moved = 0.03 * (mean / (1 - 0.9**number)) / (root + 1e-3)
        whole["adam"] = (whole["adam"] + moved).astype(np.float32)
        whole["avg"] = (whole["avg"] + 0.7 * values).astype(np.float32)
    for name, expected in whole.items():
        np.testing.assert_array_equal(stepped[name], expected)
    np.testing.assert_array_equal(adam.state()["mean"], mean)


def test_the_strategy_chooses_the_optimiser():
    def training(**keys: object) -> Training:
        return Training.model_validate({"rounds": 1, "learning-rate": 0.1, **keys})

    assert isinstance(server_optimiser(training()), FedAvg)
    assert isinstance(server_optimiser(training(strategy="fedprox", proximal=0.1)), FedAvg)
    assert isinstance(server_optimiser(training(strategy="fedadam")), FedAdam)
