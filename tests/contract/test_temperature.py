"""The contract with T * loss(score / T) in the loss's place: closed forms, tuples, graphs and dense parameters."""

import pytest
from torch import Tensor

from ifru_dist.influence.options import SolveOptions
from ifru_dist.models.spec import ModelSpec
from tests.contract import reference
from tests.contract.cases import dot, tower
from tests.contract.contract import ClosedFormContract, ModelContract
from tests.contract.reference import TupleCase, losses


class Tempered(ModelContract):
    """Options and dense reference at a temperature."""

    temperature = 2.5

    @pytest.fixture(autouse=True)
    def tempered_reference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def tempered(case: TupleCase, score: Tensor, label: Tensor) -> Tensor:
            return self.temperature * losses(case, score / self.temperature, label)

        monkeypatch.setattr(reference, "losses", tempered)

    def options(self, **changes: object) -> SolveOptions:
        return super().options(**{"temperature": self.temperature, **changes})


class TestTemperedMatrixFactorisation(Tempered, ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, l2=0.1, l2_row=0.05)
    score = dot


class TestTemperedPairwiseMatrixFactorisation(Tempered, ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, loss="bpr", negatives=2, l2=0.1)
    score = dot
    seed = 3


class TestTemperedLightGCN(Tempered, ClosedFormContract):
    spec = ModelSpec(name="lightgcn", dim=3, layers=2, l2=0.1)
    score = dot
    seed = 5
    temperature = 1.5


class TestTemperedNeuMF(Tempered):
    spec = ModelSpec(name="neumf", dim=2, hidden=(4,), l2=0.1)
    score = tower
    seed = 8
    dense = "full"


class TestMatrixFactorisationWithSquaredLossAtATemperature(Tempered, ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, loss="squared", l2=0.1)
    score = dot
    seed = 2
