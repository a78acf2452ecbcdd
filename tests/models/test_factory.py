import pytest
import torch

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError
from ifru_dist.models.factory import build_model
from ifru_dist.models.spec import ModelSpec

SPECS = [ModelSpec(name="mf", l2=0.25, l2_row=3.5), ModelSpec(name="lightgcn", layers=3, l2=0.25, l2_row=3.5)]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_model_is_what_its_spec_says(spec: ModelSpec) -> None:
    model = build_model(spec)
    assert (model.name, model.l2, model.l2_row, model.loss.name) == (spec.name, 0.25, 3.5, "bce")
    assert sum(model.layer_weights) == pytest.approx(1.0)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_the_score_is_the_dot_product_of_the_pair(spec: ModelSpec) -> None:
    rows = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[-1.0, 0.5], [2.0, 4.0]], [[0.0, 0.0], [5.0, 5.0]]])
    assert torch.equal(build_model(spec).score(rows, {}), torch.tensor([11.0, 0.0, 0.0]))


def test_layer_weights() -> None:
    assert build_model(ModelSpec(name="mf", layers=2)).layer_weights == (1.0,)
    assert build_model(ModelSpec(name="lightgcn", layers=1)).layer_weights == (0.5, 0.5)
    assert build_model(ModelSpec(name="lightgcn", layers=3)).layer_weights == (0.25, 0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    ("field", "value"), [("dim", 0), ("layers", 5), ("l2", -1.0), ("l2_row", -1.0), ("init_std", 0.0), ("name", "svd")]
)
def test_a_spec_that_cannot_work_is_refused(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=field.replace("_", "-")):
        validated(ModelSpec(**{field: value}))


OWN = "tests.models.own_models"


def test_a_model_of_ones_own_is_imported() -> None:
    spec = validated(ModelSpec(name=f"{OWN}:Scaled", dim=3))
    model = build_model(spec)
    assert (type(model).__name__, model.name, model.width, model.arity) == ("Scaled", f"{OWN}:Scaled", 3, 2)
    score = model.score(torch.ones(1, 2, 3), {"factor": torch.tensor(2.0)})
    assert score.tolist() == [6.0]
    pairwise = build_model(ModelSpec(name=f"{OWN}:Scaled", dim=3, loss="bpr", negatives=7))
    assert (pairwise.arity, pairwise.sampled_negatives, type(pairwise.scorer).__name__) == (3, 7, "Scaled")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "no_such_module:Model",
            r"cannot be imported \(No module named 'no_such_module'\): put the module on PYTHONPATH",
        ),
        (f"{OWN}:Absent", r".*own_models has no Absent: check the spelling"),
        (f"{OWN}:NoModel", r"is no subclass of ifru_dist.models.base.Model: see docs/models.md"),
        (f"{OWN}:FUNCTION", r"is no subclass of ifru_dist.models.base.Model"),
    ],
)
def test_a_class_that_cannot_be_used(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=f"--model = {name}: {expected}"):
        build_model(ModelSpec(name=name))


@pytest.mark.parametrize("name", ["mf", "biased-mf", "lightgcn", "neumf"])
def test_a_model_of_two_fields_takes_no_more(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--model = {name}: .* has 3 fields: use fm"):
        build_model(ModelSpec(name=name, fields=3))
    assert build_model(ModelSpec(name="fm", fields=3)).arity == 3


@pytest.mark.parametrize("name", ["", "svd", "package.module", "package.module:", ":Class", "a-b:Class"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name one of mf, biased-mf, .*package.module:Class"):
        validated(ModelSpec(name=name))
