"""The benchmark prints the rows that the README's figures come from."""

from wardround_simulations.benchmarks.secure_aggregation import bench_secure_aggregation

KEYS = {
    "parameters",
    "sites",
    "dropped",
    "dropped_sites",
    "site_s",
    "flwr_site_s",
    "speedup_over_flwr",
    "floor_s",
    "over_floor",
    "bytes_per_parameter",
    "extra_memory_over_vector",
    "server_s",
}


def test_there_is_a_row_for_each_size_and_share_of_dropped_sites():
    rows = bench_secure_aggregation(parameters=(1_000_000,), sites=(3, 10), repeats=1)["rows"]
    assert [(row["sites"], row["dropped"], row["dropped_sites"]) for row in rows] == [
        (3, 0.0, 0),
        (3, 0.2, 0),
        (10, 0.0, 0),
        (10, 0.2, 2),
    ]
    assert all(set(row) == KEYS and row["parameters"] == 1_000_000 for row in rows)
    assert all(row["site_s"] > 0 and row["server_s"] > 0 for row in rows)


def test_a_message_and_the_memory_stay_within_what_was_promised():
    rows = bench_secure_aggregation(parameters=(1_000_000,), sites=(10,), repeats=1)["rows"]
    assert all(4.0 <= row["bytes_per_parameter"] <= 4.05 for row in rows)
    assert all(1.0 <= row["extra_memory_over_vector"] <= 2.0 for row in rows)
