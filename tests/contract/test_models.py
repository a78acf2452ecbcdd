"""The contract of every shipped model, with each loss and each treatment of its own parameters."""

from ifru_dist.models.spec import ModelSpec
from tests.contract.cases import dot, machine, tower, with_biases
from tests.contract.contract import ClosedFormContract, ModelContract


class TestMatrixFactorisation(ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, l2=0.1, l2_row=0.05)
    score = dot


class TestMatrixFactorisationWithSquaredLoss(ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, loss="squared", l2=0.1)
    score = dot
    seed = 2


class TestPairwiseMatrixFactorisation(ClosedFormContract):
    spec = ModelSpec(name="mf", dim=3, loss="bpr", negatives=2, l2=0.1)
    score = dot
    seed = 3


class TestBiasedMatrixFactorisation(ModelContract):
    spec = ModelSpec(name="biased-mf", dim=3, l2=0.1, l2_row=0.05)
    score = with_biases
    seed = 4


class TestBiasedMatrixFactorisationWithItsBiasFree(TestBiasedMatrixFactorisation):
    dense = "full"


class TestLightGCN(ClosedFormContract):
    spec = ModelSpec(name="lightgcn", dim=3, layers=1, l2=0.1)
    score = dot
    seed = 5


class TestDeepLightGCN(ClosedFormContract):
    spec = ModelSpec(name="lightgcn", dim=3, layers=4, l2_row=0.1)
    score = dot
    seed = 6


class TestPairwiseLightGCN(ClosedFormContract):
    spec = ModelSpec(name="lightgcn", dim=3, layers=2, loss="bpr", negatives=2, l2=0.1)
    score = dot
    seed = 7


class TestNeuMF(ModelContract):
    spec = ModelSpec(name="neumf", dim=2, hidden=(4, 3), l2=0.1)
    score = tower
    seed = 8


class TestNeuMFWithItsTowerFree(TestNeuMF):
    spec = ModelSpec(name="neumf", dim=2, hidden=(4, 3), l2=0.1, l2_row=0.05, l2_dense=0.3)
    dense = "full"


class TestPairwiseNeuMF(TestNeuMFWithItsTowerFree):
    spec = ModelSpec(name="neumf", dim=2, hidden=(4,), loss="bpr", negatives=2, l2=0.1)


class TestFactorisationMachine(ModelContract):
    spec = ModelSpec(name="fm", dim=3, fields=3, l2=0.1)
    score = machine
    sizes = (7, 6, 4)
    seed = 9
    dense = "full"


class TestPairwiseFactorisationMachine(TestFactorisationMachine):
    spec = ModelSpec(name="fm", dim=2, fields=3, loss="bpr", negatives=2, l2=0.1)
