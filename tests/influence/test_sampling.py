"""Examples read for a product within a budget of edges: which, with what weights, and what stays exact."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.options import SolveOptions
from ifru_dist.influence.sampling import uniform, within_budget
from ifru_dist.influence.shard import Block, HeldEdges, make_block
from tests.influence import reference
from tests.influence.local import after, communicator_of, objective_of, place_of, shard_of, unlearn
from tests.influence.reference import Case, random_case
from tests.influence.test_pruned import matrix_of, moved_from

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


def hubs(seed: int, users: int, *, layers: int = 0, items: int = 5) -> Case:
    """Few items that many users have: each item is a hub, and so is user 0."""
    weights = tuple(1 / (layers + 1) for _ in range(layers + 1))
    return random_case(seed, users=users, items=items, examples=3 * users, layer_weights=weights, l2=0.05, partitions=4)


def degrees_of(case: Case) -> Tensor:
    return torch.bincount(case.pairs.flatten(), minlength=case.rows)


def cap_of(case: Case, selected: Tensor, budget: int) -> int:
    """The largest number of examples of a row with which twice the capped degrees are within the budget."""
    degrees = degrees_of(case)[selected].tolist()
    fitting = [cap for cap in range(1, max(degrees) + 1) if 2 * sum(min(degree, cap) for degree in degrees) <= budget]
    return max(fitting, default=1)


def probabilities(case: Case, selected: Tensor, budget: int) -> Tensor:
    """Of each example: 1 where a moving row of it is small, else by the smallest of its moving rows, 0 without one."""
    degrees, cap = degrees_of(case).tolist(), cap_of(case, selected, budget)
    shares = [
        max((min(1.0, cap / degrees[row]) for row in pair if bool(selected[row])), default=0.0)
        for pair in case.pairs.tolist()
    ]
    return torch.tensor(shares, dtype=torch.float64)


def read_block(case: Case, selected: Tensor, budget: int | None) -> tuple[Block, Block, Tensor]:
    """The block of the selected rows, what of it products read, and the mask of its edges that are read."""
    shard, erased = shard_of(case)
    communicator = communicator_of(shard)
    block = make_block(shard, erased, torch.nonzero(selected[shard.rows]).flatten(), communicator)
    read, mask = within_budget(block, shard.degrees, selected, communicator, budget)
    return block, read, mask


def test_the_numbers_of_examples_are_uniform_and_their_own() -> None:
    drawn = uniform(torch.arange(20_000))
    assert torch.equal(uniform(torch.arange(5000, 5010)), drawn[5000:5010])
    assert 0 <= float(drawn.min()) < float(drawn.max()) < 1
    counts = torch.histc(drawn, 20, min=0, max=1)
    assert bool((counts - 1000).abs().max() < 5 * math.sqrt(1000))
    assert abs(float(torch.corrcoef(torch.stack([drawn[1:], drawn[:-1]]))[0, 1])) < 4 / math.sqrt(len(drawn))


@pytest.mark.parametrize("budget", [1, 40, 90, 140])
def test_an_example_is_read_by_the_smallest_of_its_moving_rows_and_counts_one_over_its_probability(budget: int) -> None:
    case = hubs(1, users=40)
    selected, _ = reference.endpoint_masks(case)
    expected = probabilities(case, selected, budget)
    block, read, mask = read_block(case, selected, budget)
    assert 0 < float(expected[expected > 0].min()) < 1
    assert torch.equal(mask, (uniform(torch.arange(len(case.pairs))) < expected)[block.example])
    assert torch.equal(read.example, block.example[mask])
    torch.testing.assert_close(read.weight, 1 / expected[read.example], rtol=1e-14, atol=0)


@pytest.mark.parametrize("users", [20, 100, 400])
@pytest.mark.parametrize("layers", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_a_product_reads_no_more_edges_than_the_budget_whatever_the_hubs(users: int, layers: int, seed: int) -> None:
    case = hubs(seed, users=users, layers=layers)
    gone = torch.nonzero(case.erased).flatten()[:6]
    case = replace(case, erased=torch.zeros_like(case.erased).index_fill(0, gone, True))
    selected, _ = reference.endpoint_masks(case)
    whole = int(selected[case.pairs].sum())
    rows, counted = int(selected.sum()), 0
    for budget in (4 * rows, 8 * rows, whole - 1):
        if not 4 * rows <= budget < whole:
            continue
        _, read, _ = read_block(case, selected, budget)
        assert len(read.label) <= budget
        _, objective = objective_of(case, selected, edge_budget=budget)
        assert objective.prunes == (layers == 0)  # exact products of a graph model read everything
        if layers == 0:
            assert objective.edges_per_product == len(read.label) < whole
        counted += 1
    assert counted > 0


def test_an_example_of_three_rows_counts_at_all_of_them() -> None:
    selected = torch.ones(12, dtype=torch.bool)
    generator = torch.Generator().manual_seed(2)
    shard, erased = shard_of(hubs(1, users=7))
    assert isinstance(shard.edges, HeldEdges)
    far = torch.randint(0, 12, (len(shard.edges.run.label), 2), generator=generator)
    places = torch.zeros(len(far), dtype=torch.int64)
    triples = replace(shard, edges=HeldEdges(replace(shard.edges.run, others=far, place=places)))
    communicator = communicator_of(triples)
    block = make_block(triples, erased, torch.arange(12), communicator)
    degrees = triples.degrees.tolist()
    for budget in (20, 45):
        read, mask = within_budget(block, triples.degrees, selected, communicator, budget)
        caps = [cap for cap in range(1, 40) if 3 * sum(min(degree, cap) for degree in degrees) <= budget]
        cap, position = max(caps, default=1), {row: at for at, row in enumerate(triples.rows.tolist())}
        near = torch.repeat_interleave(triples.rows, triples.degrees).tolist()
        tuples = [(own, *others) for own, others in zip(near, far.tolist(), strict=True)]
        share = [max(min(1.0, cap / max(1, degrees[position[row]])) for row in rows) for rows in tuples]
        expected = torch.tensor(share, dtype=torch.float64)
        assert torch.equal(mask, uniform(block.example) < expected)
        torch.testing.assert_close(read.weight, 1 / expected[mask], rtol=1e-14, atol=0)


def test_over_many_draws_every_row_counts_as_many_examples_as_it_has() -> None:
    case, draws = hubs(1, users=40), 300
    selected, _ = reference.endpoint_masks(case)
    shard, _ = shard_of(case)
    block, _, _ = read_block(case, selected, None)
    total = torch.zeros(int(selected.sum()), dtype=torch.float64)
    for draw in range(draws):
        renamed = replace(block, example=block.example + 10_000 * draw)
        read, _ = within_budget(renamed, shard.degrees, selected, communicator_of(shard), 60)
        row = torch.repeat_interleave(torch.arange(len(total)), torch.diff(read.indptr))
        total.index_add_(0, row, read.factor)
    probability = probabilities(case, selected, 60)
    spread = torch.zeros(case.rows, dtype=torch.float64)
    for pair, share in zip(case.pairs.tolist(), probability.tolist(), strict=True):
        for end in pair:
            spread[end] += 1 / share - 1 if share else 0.0
    own = shard.rows[block.positions]
    allowed = 4 * (spread[own] / draws).sqrt() + 1e-9
    assert bool(((total / draws - degrees_of(case)[own]).abs() <= allowed).all())
    assert bool((spread[own] > 0).any())


@pytest.mark.parametrize("layers", [0, 2])
def test_the_sampled_matrix_is_the_dense_one_of_weighted_examples(layers: int) -> None:
    case = replace(hubs(2, users=12, layers=layers), l2=0.0)
    selected, _ = reference.endpoint_masks(case)
    shard, objective = objective_of(case, selected, product="pruned", edge_budget=30)
    at = moved_from(case, selected)[shard.rows].contiguous()
    curvature = objective.at(place_of(objective, at)).curvature("gauss-newton")
    matrix = matrix_of(curvature, len(objective.positions))
    torch.testing.assert_close(matrix, matrix.T, rtol=1e-12, atol=1e-12)
    assert float(torch.linalg.eigvalsh(matrix).min()) > -1e-11
    _, free = objective_of(case, selected, product="pruned")
    assert objective.edges_per_product < free.edges_per_product
    if layers:
        return
    probability = probabilities(case, selected, 30)
    read = uniform(torch.arange(len(case.pairs))) < probability
    expected = torch.zeros(case.rows * 3, case.rows * 3, dtype=torch.float64)
    embeddings = moved_from(case, selected)
    for example in torch.nonzero(read & ~case.erased).flatten().tolist():
        (u, i), slope = case.pairs[example].tolist(), torch.zeros(case.rows, 3, dtype=torch.float64)
        slope[u], slope[i] = embeddings[i], embeddings[u]
        q = torch.sigmoid(torch.dot(embeddings[u], embeddings[i]))
        expected += q * (1 - q) / probability[example] * torch.outer(slope.flatten(), slope.flatten())
    numbers = (shard.rows[objective.positions][:, None] * 3 + torch.arange(3)).flatten()
    torch.testing.assert_close(matrix, expected[numbers][:, numbers], **CLOSE)
    torch.testing.assert_close(curvature.diagonal.flatten(), matrix.diagonal(), **CLOSE)


# ------------------------------------------------------------------------------------------------------ whole solves


def options(**changes: object) -> SolveOptions:
    values = {"damping": 2.0, "row_budget": 20, "product_dtype": torch.float64, "storage_dtype": torch.float64}
    return SolveOptions(**{**values, **changes})


@pytest.mark.parametrize("layers", [0, 1])
def test_a_budget_for_all_edges_gives_the_bits_of_none(layers: int) -> None:
    case = hubs(3, users=30, layers=layers)
    free, ample = (unlearn(case, options(edge_budget=budget)) for budget in (None, 10**6))
    assert torch.equal(free.values, ample.values)
    assert free.rounds == ample.rounds
    assert free.product_error == ample.product_error
    assert (free.product_error is None) == (layers == 0)


@pytest.mark.parametrize("layers", [0, 1])
def test_within_a_budget_the_residual_and_the_minimum_stay_exact(layers: int) -> None:
    case, limit = hubs(3, users=30, layers=layers), {"tolerance": 1e-9, "max_newton_steps": 300, "row_budget": 0}
    free, tight = (unlearn(case, options(damping=8.0, edge_budget=budget, **limit)) for budget in (None, 60))
    assert tight.status == free.status == "converged"
    torch.testing.assert_close(after(case, tight), after(case, free), rtol=1e-6, atol=1e-7)
    assert tight.rounds[-1].edges_per_product < free.rounds[-1].edges_per_product
    assert tight.rounds[-1].edges_per_residual == free.rounds[-1].edges_per_residual
    _, emptied = reference.endpoint_masks(case)
    before, left = (reference.residual(case, place)[~emptied].norm() for place in (case.embeddings, after(case, tight)))
    assert tight.influence_residual == pytest.approx(float(left / before), rel=1e-7)
    assert tight.product_error > 1e-3
