import pytest
import torch
from torch import Tensor

from ifru_dist.errors import ConfigError
from ifru_dist.models.base import Dense, Model
from ifru_dist.models.checking import check_new_model, check_score
from ifru_dist.models.factory import build_model
from ifru_dist.models.pairwise import Pairwise
from ifru_dist.models.spec import SHIPPED, LossName, ModelSpec

OWN = ModelSpec(name="elsewhere:Model", dim=4)


class Dot(Model):
    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"scale": torch.ones(())}

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return dense["scale"] * (rows[:, 0] * rows[:, 1]).sum(dim=-1)


class WithoutWidth(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return super().score(rows, dense) + rows[:, 0, 4]


class Unsummed(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return dense["scale"] * rows[:, 0] * rows[:, 1]


class Single(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return super().score(rows, dense).float()


class Batched(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        score = super().score(rows, dense)
        return score - score.mean()


class NotANumber(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return super().score(rows, dense).sqrt() + torch.nan


class Random(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return super().score(torch.nn.functional.dropout(rows, 0.5), dense)


class Branching(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        score = super().score(rows, dense)
        return score if score.sum() > -10 else -score


class Reading(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return torch.stack([dense["scale"] * user @ item * float(user[0]) for user, item in rows])


class Doubles(Dot):
    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"scale": torch.ones((), dtype=torch.float64)}


class Numbers(Dot):
    def initial_dense(self, generator: torch.Generator) -> dict[str, Tensor]:
        return {"scale": 1.0}  # type: ignore[dict-item]


class Strange(Dot):
    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return "a word"  # type: ignore[return-value]


@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_models_are_what_is_asked(name: str, loss: LossName) -> None:
    check_new_model(build_model(ModelSpec(name=name, dim=3, loss=loss)))


@pytest.mark.parametrize("wrap", [lambda model: model, Pairwise], ids=["alone", "pairwise"])
def test_a_model_of_ones_own_may_be_what_is_asked(wrap: type[Pairwise]) -> None:
    check_new_model(wrap(Dot(OWN)))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (WithoutWidth, "its score raised IndexError (index 4 is out of bounds"),
        (
            Unsummed,
            "its score raised TypeError (torch.float64 [3, 4] for torch.float64 [3, 2, 4], not one per example)",
        ),
        (Single, "its score raised TypeError (torch.float32 [3] for torch.float64"),
        (Batched, "the score of an example depends on the others"),
        (NotANumber, "scores [nan, nan, nan] for small random rows"),
        (Random, "or on chance"),
        (Branching, "its score, transformed by torch.func, raised RuntimeError ("),
        (Reading, "its score, transformed by torch.func, raised RuntimeError ("),
        (Doubles, "its initial_dense raised TypeError (scale is no float32 tensor)"),
        (Numbers, "its initial_dense raised TypeError (scale is no float32 tensor)"),
        (Strange, "its score raised TypeError (str instead of a tensor)"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda model: model, Pairwise], ids=["alone", "pairwise"])
def test_what_a_class_does_wrong_is_said_in_one_message(kind: type[Model], expected: str, wrap: type[Pairwise]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_new_model(wrap(kind(OWN)))
    assert str(caught.value).startswith("--model = elsewhere:Model: ")
    assert expected in str(caught.value)


def test_a_class_that_has_changed_since_it_was_trained() -> None:
    with pytest.raises(ConfigError, match=r"has rows of 4 columns, but those that were trained have 5: bring back"):
        check_score(Dot(OWN), 5, {"scale": torch.ones(())})
    with pytest.raises(ConfigError, match=r"its score raised KeyError \('scale'\)"):
        check_score(Dot(OWN), 4, {"factor": torch.ones(())})
