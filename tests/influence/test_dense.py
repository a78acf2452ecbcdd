"""Dense parameters moved by a sample of the examples: right for the examples that it reads, exact in what goes."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.sampling import uniform
from ifru_dist.models.base import Model
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from tests.contract import reference
from tests.contract.cases import case_of, machine, tower, with_biases
from tests.contract.reference import Score, TupleCase
from tests.contract.shards import merged, objective_of, outcomes_of
from tests.influence.local import place_of

SPECS = {
    "biased-mf": (ModelSpec(name="biased-mf", dim=3, l2=0.1, l2_row=0.05), with_biases, (12, 10)),
    "neumf": (ModelSpec(name="neumf", dim=2, hidden=(4, 3), l2=0.1), tower, (12, 10)),
    "neumf-bpr": (ModelSpec(name="neumf", dim=2, hidden=(3,), loss="bpr", negatives=2), tower, (12, 10)),
    "fm": (ModelSpec(name="fm", dim=2, fields=3, l2=0.1), machine, (12, 10, 9)),
}
SHARE = 0.4
CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def options(**changes: object) -> SolveOptions:
    values = {
        "damping": 3.0,
        "dense": "sampled",
        "dense_share": SHARE,
        "importance": "degree",
        "hops": 0,
        "row_budget": 10**6,
        "product_dtype": torch.float64,
        "storage_dtype": torch.float64,
    }
    return SolveOptions(**{**values, **changes})


@dataclass(frozen=True)
class Problem:
    """A case in which one example goes, so that most examples have no row that moves."""

    case: TupleCase
    model: Model

    @property
    def moving(self) -> Tensor:
        return reference.endpoints(self.case)[0]

    def objective(self, **changes: object):
        """The shard, the objective, and where each number of its rows is among all parameters, past the end if none."""
        width = self.case.embeddings.shape[1]
        rows = -(-(len(self.case.start) - self.case.embeddings.numel()) // width)
        selected = torch.cat([self.moving, torch.ones(rows, dtype=torch.bool)])
        shard, objective = objective_of(self.case, self.model, selected, options(**changes))
        return shard, objective, (shard.rows[objective.positions][:, None] * width + torch.arange(width)).flatten()

    def at(self, shard, vector: Tensor) -> Tensor:
        """A vector of all parameters as the shard's rows."""
        embeddings, dense = self.case.split(vector)
        return torch.cat([embeddings, shard.dense.pack(dense)])[shard.rows].contiguous()

    def as_sampled(self) -> TupleCase:
        """The case as the sample weighs it: an example without a moving row counts 1 / share, or not at all."""
        certain = self.moving[self.case.tuples].any(1) | self.case.erased
        read = uniform(self.case.example) < SHARE
        assert bool((~certain & read).any())
        assert bool((~certain & ~read).any())
        scale = torch.where(certain, 1.0, torch.where(read, 1 / SHARE, 0.0)).double()
        return replace(self.case, weight=self.case.weight * scale)


@pytest.fixture(params=SPECS)
def problem(request: pytest.FixtureRequest) -> Problem:
    spec, score, sizes = SPECS[request.param]
    return problem_of(spec, score, sizes)


def problem_of(spec: ModelSpec, score: Score, sizes: tuple[int, ...]) -> Problem:
    case = case_of(spec, score, sizes=sizes, examples=60, seed=6)
    lives = torch.bincount(case.tuples[:, 0], minlength=case.rows)[case.tuples[:, 0]] > 1
    goes = case.example[torch.nonzero(lives & (case.tuples[:, 0] > 0))[0, 0]]
    return Problem(replace(case, erased=case.example == goes), build_model(spec))


def elsewhere(case: TupleCase, numbers: Tensor) -> Tensor:
    """A vector away from the start on the numbers that move."""
    noise = torch.randn(len(case.start), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    inside = numbers[numbers < len(case.start)]
    return case.start.index_add(0, inside, 0.1 * noise[inside])


def columns_of(curvature, size: int, width: int) -> Tensor:
    """A curvature's matrix, column by column."""
    units = torch.eye(size, dtype=torch.float64)
    return torch.stack([curvature.product(unit.view(-1, width).contiguous()).flatten() for unit in units], dim=1)


def test_the_sampled_matrix_is_the_dense_one_of_weighted_examples(problem: Problem) -> None:
    shard, objective, numbers = problem.objective()
    vector, real = elsewhere(problem.case, numbers), numbers < len(problem.case.start)
    point = objective.at(place_of(objective, problem.at(shard, vector)))
    for kind, of in (("gauss-newton", reference.gauss_newton), ("hessian", reference.hessian)):
        matrix = columns_of(point.curvature(kind), len(numbers), problem.case.embeddings.shape[1])
        expected = of(problem.as_sampled(), vector)[numbers[real]][:, numbers[real]]
        torch.testing.assert_close(matrix[real][:, real], expected, **CLOSE)
        assert not bool(matrix[~real].any())
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-10, atol=1e-11)
        if kind == "gauss-newton":
            assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-10


def test_what_the_erased_examples_leave_is_exact_and_the_rest_is_the_samples(problem: Problem) -> None:
    shard, objective, numbers = problem.objective()
    real = numbers < len(problem.case.start)
    start = objective.at(place_of(objective)).residual().flatten()
    expected = reference.residual(problem.case, problem.case.start)
    torch.testing.assert_close(start[real], expected[numbers[real]], **CLOSE)
    assert bool(start[real & (numbers >= problem.case.embeddings.numel())].any())
    vector = elsewhere(problem.case, numbers)
    moved = objective.at(place_of(objective, problem.at(shard, vector))).residual().flatten()
    torch.testing.assert_close(moved[real], reference.residual(problem.as_sampled(), vector)[numbers[real]], **CLOSE)


@pytest.mark.parametrize("name", ["biased-mf", "neumf", "fm"])
def test_an_example_that_goes_with_all_its_rows_is_never_left_to_the_sample(name: str) -> None:
    spec, score, sizes = SPECS[name]
    case = problem_of(spec, score, sizes).case
    lonely = torch.tensor([[sum(sizes[: table + 1]) - 1 for table in range(len(sizes))]])  # rows without examples
    assert not bool(torch.isin(lonely, case.tuples).any())
    more = {
        "tuples": torch.cat([case.tuples, lonely]),
        "label": torch.cat([case.label, torch.ones(1, dtype=torch.float64)]),
        "weight": torch.cat([case.weight, torch.ones(1, dtype=torch.float64)]),
        "example": torch.cat([case.example, torch.tensor([60])]),
        "erased": torch.cat([case.erased, torch.ones(1, dtype=torch.bool)]),
    }
    problem = Problem(replace(case, **more), build_model(spec))
    _, objective, numbers = problem.objective(dense_share=1e-12)
    own = (numbers >= case.embeddings.numel()) & (numbers < len(case.start))
    start = objective.at(place_of(objective)).residual().flatten()
    expected = reference.residual(problem.case, problem.case.start)[numbers[own]]
    torch.testing.assert_close(start[own], expected, **CLOSE)
    before = reference.residual(case, case.start)[numbers[own]]
    assert not torch.allclose(expected, before)  # the example does leave something there


def test_loss_changes_are_those_of_the_sample(problem: Problem) -> None:
    shard, objective, numbers = problem.objective()
    bare = replace(problem.as_sampled(), l2=0.0, l2_row=0.0)
    vector, kept = elsewhere(bare, numbers), ~bare.erased
    change = objective.at(place_of(objective, problem.at(shard, vector))).loss_change()
    expected = reference.objective(bare, kept, vector) - reference.objective(bare, kept, bare.start)
    torch.testing.assert_close(change.values.sum(), expected, **CLOSE)


def test_a_sample_of_everything_gives_the_bits_of_all_examples(problem: Problem) -> None:
    full, sampled = (
        outcomes_of(problem.case, problem.model, options(dense=dense, dense_share=1.0)) for dense in ("full", "sampled")
    )
    assert torch.equal(merged(problem.case, sampled), merged(problem.case, full))
    assert not torch.equal(merged(problem.case, full), problem.case.start)
    for name in ("influence_residual", "objective_change", "rounds", "status"):
        assert getattr(sampled[0], name) == getattr(full[0], name)


def test_a_sample_reads_fewer_examples_and_moves_the_parameters_elsewhere(problem: Problem) -> None:
    size = problem.case.embeddings.numel()
    results = {}
    for dense in ("frozen", "sampled", "full"):
        outcomes = outcomes_of(problem.case, problem.model, options(dense=dense))
        results[dense] = merged(problem.case, outcomes), outcomes[0].rounds[-1].edges_per_product
    start = problem.case.start
    assert torch.equal(results["frozen"][0][size:], start[size:])
    assert not torch.equal(results["sampled"][0][size:], start[size:])
    assert not torch.equal(results["sampled"][0][size:], results["full"][0][size:])
    assert results["frozen"][1] < results["sampled"][1] < results["full"][1]


@pytest.mark.parametrize("workers", [2, 3])
def test_any_number_of_workers_gives_the_same_bits(problem: Problem, workers: int) -> None:
    together, alone = (
        outcomes_of(problem.case, problem.model, options(importance="step", edge_budget=30), count)
        for count in (workers, 1)
    )
    assert torch.equal(merged(problem.case, together), merged(problem.case, alone))
    assert {outcome.influence_residual for outcome in together} == {alone[0].influence_residual}
