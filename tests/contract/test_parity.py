"""Any number of workers gives the same bits with products that leave something out, for models of all kinds."""

import pytest
import torch

from ifru_dist.influence.options import USABLE, SolveOptions
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec
from tests.contract.cases import case_of, dot, machine, tower
from tests.contract.reference import Score
from tests.contract.shards import merged, outcomes_of

MODELS = {
    "mf": (ModelSpec(name="mf", dim=3, l2=0.1), dot, (9, 8)),
    "mf-bpr": (ModelSpec(name="mf", dim=3, loss="bpr", negatives=2, l2=0.1), dot, (9, 8)),
    "lightgcn": (ModelSpec(name="lightgcn", dim=3, layers=3, l2=0.1), dot, (9, 8)),
    "lightgcn-bpr": (ModelSpec(name="lightgcn", dim=3, layers=2, loss="bpr", negatives=2, l2=0.1), dot, (9, 8)),
    "neumf": (ModelSpec(name="neumf", dim=2, hidden=(4,), l2=0.1), tower, (9, 8)),
    "fm": (ModelSpec(name="fm", dim=2, fields=3, l2=0.1), machine, (9, 8, 5)),
}
OPTIONS = {"damping": 2.0, "row_budget": 14, "tolerance": 1e-3, "storage_dtype": torch.float64}


@pytest.mark.parametrize(("spec", "score", "sizes"), MODELS.values(), ids=MODELS.keys())
@pytest.mark.parametrize(
    "changes",
    [{"edge_budget": 30}, {"edge_budget": 1, "anchor": "gradient", "temperature": 1.5, "path": "flow"}],
    ids=["budget", "least budget, flow"],
)
def test_the_same_bits_within_a_budget(
    spec: ModelSpec, score: Score, sizes: tuple[int, ...], changes: dict[str, object]
) -> None:
    case, model = case_of(spec, score, sizes=sizes, examples=60, seed=2), build_model(spec)
    options = SolveOptions(**{**OPTIONS, **changes})
    (alone,) = single = outcomes_of(case, model, options)
    assert alone.status in USABLE
    assert alone.product_error > 0
    assert not torch.equal(merged(case, single), case.start)
    for workers in (2, 3):
        together = outcomes_of(case, model, options, workers)
        assert torch.equal(merged(case, together), merged(case, single))
        for outcome in together:
            assert outcome.rounds == alone.rounds
            assert outcome.influence_residual == alone.influence_residual
            assert outcome.product_error == alone.product_error
