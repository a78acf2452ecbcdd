"""The cost model of cells whose costs are known, and when there is none."""

import numpy as np
import pytest

from ifru_dist.pipelines.benchmark_cells import BatchSample, Cell
from ifru_dist.pipelines.benchmark_projection import cost_model_report
from ifru_dist.pipelines.benchmark_spread import Spread
from tests.pipelines.measured import cell, round_of, sample
from tests.pipelines.small import small_interactions, small_workspace

ROWS = small_interactions().rows
BASE_S, HELD_S, READ_S, WAIT_S, PROJECT_TO = 0.02, 1e-4, 1e-6, 1e-3, (8, 64)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Spread:
    return Spread(small_workspace(tmp_path_factory.mktemp("projection") / "ws", partitions=64))


def true_parts(spread: Spread, workers: int, size: int, ends: np.ndarray) -> dict[str, float]:
    """A base, calls as ``measured.cell`` has them, edges of the busiest worker, rings of 2 ms, 8 bytes a row at 1 MB/s.

    A batch has 10 products of so many edges, and two residuals of twice as many.
    """
    reads = (10 + 4) * 1e4 * size * spread.batch_share(ends, workers)
    received = 8 * spread.received_rows(ends, workers).max() / 1e6
    return {
        "coordinator": BASE_S,
        "compute": HELD_S * spread.held_edges(workers) + READ_S * reads,
        "calls": 2 * 1e-3 * (1 + workers),
        "exchange": 40 * (WAIT_S * (workers > 1) + 2e-3 * (workers - 1)) + received,
    }


def measured(spread: Spread, workers: int, size: int, ends: np.ndarray, slower: float = 1.0) -> BatchSample:
    """A batch that took what the parts say, or several times as long."""
    parts = {name: slower * seconds for name, seconds in true_parts(spread, workers, size, ends).items()}
    seconds = sum(parts.values())
    return sample(
        seconds,
        workers=workers,
        phases={"route": 0.0, "gang": seconds - parts["coordinator"], "commit": parts["coordinator"]},
        busy_s=[parts["compute"] * (rank + 1) / workers for rank in range(workers)],
        exchange_s=[parts["exchange"] * (rank + 1) for rank in range(workers)],
        rounds=[round_of(10, 10_000 * size)],
        endpoints=ends,
        gathered_bytes=8 * int(spread.received_rows(ends, workers).sum()),
    )


def endpoints(size: int) -> list[np.ndarray]:
    """Those of the three batches of a size."""
    return [np.unique(ROWS[number::5][: 4 * size]) for number in range(3)]


def cells_of(spread: Spread, workers: tuple[int, ...], sizes: tuple[int, ...], cores: int = 64) -> list[Cell]:
    return [
        cell(count, size, [measured(spread, count, size, ends) for ends in endpoints(size)], cores=cores)
        for count in workers
        for size in sizes
    ]


def test_known_costs_are_found_and_projected(spread: Spread) -> None:
    report = cost_model_report(cells_of(spread, (1, 2, 4), (1, 3, 9)), spread, PROJECT_TO)
    assert report["reason"] is None
    model = report["devices"]["cpu"]["patterns"]["ring"]
    assert model["worst_check_error"] < 1e-6
    assert model["coefficients"]["per_held_s"] == pytest.approx(HELD_S, rel=1e-6)
    assert model["coefficients"]["wait_s"] == pytest.approx(WAIT_S, rel=1e-6)
    assert model["coefficients"]["per_read_s"] == pytest.approx(READ_S, rel=1e-6)
    assert {row["used_for"] for row in model["cells"]} == {"fit", "check"}
    assert len(model["cells"]) == 9
    for entry in model["projection"]["by_workers"]:
        expected = sorted(sum(true_parts(spread, entry["workers"], 9, ends).values()) for ends in endpoints(9))[1]
        assert entry["seconds"] == pytest.approx(expected, rel=1e-6)
        assert sum(entry["parts_s"].values()) == pytest.approx(expected, rel=1e-6)


def test_where_scaling_ends_is_the_lowest_point_of_the_curve(spread: Spread) -> None:
    patterns = cost_model_report(cells_of(spread, (1, 2, 4), (1, 3, 9)), spread, PROJECT_TO)["devices"]["cpu"][
        "patterns"
    ]
    ring, tree = (patterns[name]["projection"] for name in ("ring", "tree"))
    curve = {point["workers"]: point["seconds"] for point in ring["curve"]}
    assert curve[ring["scaling_ends_at_workers"]] == min(curve.values()) == ring["fewest_seconds"]
    assert 1 < ring["scaling_ends_at_workers"] < 64
    # Trees reach many workers in fewer steps.
    assert tree["by_workers"][-1]["seconds"] < ring["by_workers"][-1]["seconds"]


def test_fitted_on_some_cells_it_tells_when_others_are_different(spread: Spread) -> None:
    cells = cells_of(spread, (1, 2), (1, 3, 9))
    # One worker and the middle size: kept for the check.
    cells[1] = cell(1, 3, [measured(spread, 1, 3, ends, slower=2.0) for ends in endpoints(3)])
    model = cost_model_report(cells, spread, PROJECT_TO)["devices"]["cpu"]["patterns"]["ring"]
    assert model["worst_check_error"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("workers", "sizes", "cores"), [((1,), (1, 3, 9), 64), ((1, 2), (9,), 64), ((2, 4), (1, 3), 1)]
)
def test_too_little_was_measured(spread: Spread, workers: tuple[int, ...], sizes: tuple[int, ...], cores: int) -> None:
    report = cost_model_report(cells_of(spread, workers, sizes, cores), spread, PROJECT_TO)
    assert report["devices"] == {}
    assert "two numbers of workers" in report["reason"]


def test_a_worker_in_the_jobs_own_process_is_no_point_of_the_model(spread: Spread) -> None:
    cells = cells_of(spread, (1, 2), (1, 3))
    alone = [cell(0, each.batch_size, each.samples) for each in cells[:2]]
    assert cost_model_report([*alone, *cells[2:]], spread, PROJECT_TO)["devices"] == {}
    both = cost_model_report([*alone, *cells], spread, PROJECT_TO)
    assert both == cost_model_report(cells, spread, PROJECT_TO)
