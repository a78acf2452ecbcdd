"""What every model must do under unlearning. A model's test class says which model, score and problem it is."""

import dataclasses

import pytest
import torch
from torch import Tensor

from ifru_dist.influence.options import USABLE, SolveOptions
from ifru_dist.models.base import Model
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from tests.contract import reference
from tests.contract.cases import OpenForm, case_of
from tests.contract.reference import Score, TupleCase
from tests.contract.shards import merged, objective_of, outcomes_of, unlearn, whole
from tests.influence.local import place_of

CLOSE = {"rtol": 1e-8, "atol": 1e-9}
STEPS = 2


class ModelContract:
    """The contract; ``dense`` is what the model's own parameters do."""

    spec: ModelSpec
    score: Score
    sizes: tuple[int, ...] = (7, 6)
    examples = 26
    seed = 1
    dense = "frozen"

    @pytest.fixture
    def model(self) -> Model:
        return build_model(self.spec)

    @pytest.fixture
    def case(self) -> TupleCase:
        return case_of(self.spec, type(self).score, sizes=self.sizes, examples=self.examples, seed=self.seed)

    def options(self, **changes: object) -> SolveOptions:
        exact = {"solver_tolerance": 1e-13, "max_iterations": 2000, "dense": self.dense}
        types = {"product_dtype": torch.float64, "storage_dtype": torch.float64}
        rows = {
            "product": "exact",
            "importance": "degree",
            "hops": 0,
            "row_budget": 10**6,
            "preconditioner": "diagonal",
        }
        return SolveOptions(**{"damping": 0.3, "newton_steps": STEPS, **exact, **types, **rows, **changes})

    def selection(self, case: TupleCase) -> Tensor:
        """Rows that move, the dense ones behind the others: (N + dense rows,) bool."""
        moving, _ = reference.endpoints(case)
        count = -(-(len(case.start) - case.embeddings.numel()) // case.embeddings.shape[1])
        return torch.cat([moving, torch.full((count,), self.dense != "frozen")])

    def numbers(self, case: TupleCase) -> Tensor:
        """Numbers of the vector of all parameters that move, (numbers,) bool."""
        moving, _ = reference.endpoints(case)
        own = torch.full((len(case.start) - case.embeddings.numel(),), self.dense != "frozen")
        return torch.cat([moving.repeat_interleave(case.embeddings.shape[1]), own])

    def vector_of(self, case: TupleCase, shard, objective, values: Tensor) -> Tensor:
        """Values (m, d) on the selected rows as a vector of all parameters."""
        width, total = case.embeddings.shape[1], case.start.numel()
        rows = shard.rows[objective.positions]
        filled = torch.zeros(max(int(rows.max()) + 1, case.rows) + total, width, dtype=torch.float64)
        filled[rows] = values
        return filled.flatten()[:total]

    def at(self, case: TupleCase, shard, vector: Tensor) -> Tensor:
        """A vector of all parameters as the shard's rows (n, d)."""
        embeddings, dense = case.split(vector)
        rows = embeddings if shard.dense is None else torch.cat([embeddings, shard.dense.pack(dense)])
        return rows[shard.rows].contiguous()

    def moved(self, case: TupleCase) -> Tensor:
        """A vector away from the start on the numbers that move."""
        noise = torch.randn(len(case.start), generator=torch.Generator().manual_seed(9), dtype=torch.float64)
        return case.start + 0.1 * noise * self.numbers(case)

    def test_residual_and_products_equal_dense(self, case: TupleCase, model: Model) -> None:
        shard, objective = objective_of(case, model, self.selection(case), self.options())
        vector, chosen = self.moved(case), self.numbers(case)
        point = objective.at(place_of(objective, self.at(case, shard, vector)))
        residual = self.vector_of(case, shard, objective, point.residual())
        torch.testing.assert_close(residual, reference.residual(case, vector) * chosen, **CLOSE)
        direction = torch.randn(len(vector), generator=torch.Generator().manual_seed(3), dtype=torch.float64) * chosen
        rows = (self.at(case, shard, case.start + direction) - shard.embeddings)[objective.positions].contiguous()
        for kind, matrix in (
            ("gauss-newton", reference.gauss_newton(case, vector)),
            ("hessian", reference.hessian(case, vector)),
        ):
            product = self.vector_of(case, shard, objective, point.curvature(kind).product(rows))
            torch.testing.assert_close(product, (matrix @ direction) * chosen, **CLOSE)

    def test_the_starting_gradient_and_residual_equal_dense(self, case: TupleCase, model: Model) -> None:
        shard, objective = objective_of(case, model, self.selection(case), self.options())
        everything = torch.ones_like(case.erased)
        gradient = torch.func.grad(reference.objective, argnums=2)(case, everything, case.start)
        tilt = self.vector_of(case, shard, objective, objective.start_gradient())
        torch.testing.assert_close(tilt, gradient * self.numbers(case), **CLOSE)
        point = objective.at(place_of(objective))
        start = self.vector_of(case, shard, objective, point.residual())
        torch.testing.assert_close(start, reference.residual(case, case.start) * self.numbers(case), **CLOSE)

    def test_loss_changes_equal_dense(self, case: TupleCase, model: Model) -> None:
        bare = dataclasses.replace(case, l2=0.0, l2_row=0.0, l2_dense=0.0)
        shard, objective = objective_of(
            bare,
            build_model(dataclasses.replace(self.spec, l2=0.0, l2_row=0.0, l2_dense=0.0)),
            self.selection(case),
            self.options(),
        )
        vector, kept = self.moved(case), ~case.erased
        change = objective.at(place_of(objective, self.at(case, shard, vector))).loss_change()
        expected = reference.objective(bare, kept, vector) - reference.objective(bare, kept, case.start)
        torch.testing.assert_close(change.values.sum(), expected, **CLOSE)

    def test_the_update_equals_dense_newton_steps(self, case: TupleCase, model: Model) -> None:
        damping = reference.downhill_damping(case, self.numbers(case), STEPS)
        expected = reference.newton(case, self.numbers(case), damping=damping, steps=STEPS)
        result = unlearn(case, model, self.options(damping=damping))
        torch.testing.assert_close(result, expected, rtol=1e-7, atol=1e-9)

    def test_erasing_nothing_changes_nothing(self, case: TupleCase, model: Model) -> None:
        nothing = dataclasses.replace(case, erased=torch.zeros_like(case.erased))
        assert torch.equal(unlearn(nothing, model, self.options(newton_steps=None)), case.start)

    @pytest.mark.parametrize("workers", [2, 3])
    def test_any_number_of_workers_gives_the_same_bits(self, case: TupleCase, model: Model, workers: int) -> None:
        options = self.options(newton_steps=None, importance="step", row_budget="auto", solver_tolerance=0.01)
        alone, together = (outcomes_of(case, model, options, count) for count in (1, workers))
        assert torch.equal(merged(case, together), merged(case, alone))
        assert not torch.equal(merged(case, alone), case.start)
        for outcome in together:
            assert outcome.influence_residual == alone[0].influence_residual
            assert outcome.status in USABLE

    def test_rows_outside_the_selection_are_untouched(self, case: TupleCase, model: Model) -> None:
        result = unlearn(case, model, self.options())
        chosen = self.numbers(case)
        assert torch.equal(result[~chosen], case.start[~chosen])
        assert bool((result[chosen] != case.start[chosen]).any())

    def test_the_influence_residual_is_that_of_the_dense_reference(self, case: TupleCase, model: Model) -> None:
        outcomes = outcomes_of(case, model, self.options())
        _, emptied = reference.endpoints(case)
        own = torch.full((len(case.start) - case.embeddings.numel(),), self.dense != "frozen")
        counted = torch.cat([(~emptied).repeat_interleave(case.embeddings.shape[1]), own])
        before = (reference.residual(case, case.start) * counted).norm()
        after = (reference.residual(case, merged(case, outcomes)) * counted).norm()
        assert outcomes[0].influence_residual == pytest.approx(float(after / before), rel=1e-7)

    def test_an_examples_score_does_not_depend_on_the_others(self, case: TupleCase, model: Model) -> None:
        shard, _, _ = whole(case, model)
        embeddings, dense = case.split(case.start)
        together = model.score(embeddings[case.tuples], dense)
        alone = torch.cat([model.score(embeddings[rows][None], dense) for rows in case.tuples])
        torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
        assert len(shard.rows) >= case.rows


class ClosedFormContract(ModelContract):
    """What a model with closed forms must do besides."""

    def test_closed_forms_equal_any_score(self, case: TupleCase, model: Model) -> None:
        assert model.scorer.dot_product
        hidden = OpenForm(model)
        assert not hidden.scorer.dot_product
        closed, opened = (unlearn(case, form, self.options()) for form in (model, hidden))
        torch.testing.assert_close(opened, closed, **CLOSE)
