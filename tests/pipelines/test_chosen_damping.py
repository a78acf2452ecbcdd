"""Which anchor, damping and temperature a batch is solved with: given, calibrated, by Adam's options, or by default."""

from typing import Any

import pytest

from ifru_dist.errors import ConfigError
from ifru_dist.influence.damping import adam_scale
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.solving import Anchor, SolveFlags, chosen_anchor, chosen_damping
from ifru_dist.workspace.manifest import Calibration, ModelRecord

ADAM = {"optimiser": "adam", "learning_rate": 0.002, "batch_size": 100}
FLAGS = SolveFlags()
BY_ADAM = Anchor(kind="gradient", scale=adam_scale(0.002, 30, 40.0))


def record(name: str = "lightgcn", **changes: Any) -> ModelRecord:
    """A model that Adam trained for 30 epochs of 40 batches."""
    values = {"spec": ModelSpec(name=name), "source": "trained", "options": ADAM, "seed": 1, "trained_version": 2}
    return ModelRecord(**{**values, "base": (), "epochs": 30, "epoch_examples": 4000, **changes})


def calibration(**changes: Any) -> Calibration:
    values = {"damping": 0.7, "gap": 0.1, "gap_do_nothing": 0.3, "interactions": 9, "seed": 0, "version": 2}
    solver = FLAGS.solver_settings()
    return Calibration(**{**values, "solver": solver, "anchor": "gradient", "temperature": 1.5, **changes})


OTHERS = [
    ModelSpec(name="lightgcn"),
    ModelSpec(name="lightgcn", loss="bpr"),
    ModelSpec(name="mf", loss="bpr"),
    ModelSpec(name="biased-mf"),
    ModelSpec(name="neumf"),
]


@pytest.mark.parametrize("spec", OTHERS, ids=lambda spec: f"{spec.name}-{spec.loss}")
def test_all_but_plain_factorisations_that_adam_trained_here_are_held_by_gradients(spec: ModelSpec) -> None:
    assert chosen_anchor(record(spec=spec), FLAGS) == BY_ADAM
    assert BY_ADAM.scale == pytest.approx(1 / (0.002 * 30 * 40**0.5))
    assert BY_ADAM.default == 1.0


@pytest.mark.parametrize(
    "model",
    [
        record("mf"),
        record(source="imported", options={}, epochs=None, epoch_examples=None),
        record(options={**ADAM, "optimiser": "lbfgs"}),
        record(epochs=None, epoch_examples=None),
        record(options={"learning_rate": 0.002, "batch_size": 100}),
    ],
    ids=["mf", "imported", "lbfgs", "of an earlier release", "of an optimiser that is not told"],
)
def test_all_others_are_held_by_degree(model: ModelRecord) -> None:
    assert chosen_anchor(model, FLAGS) == Anchor(kind="degree")
    assert Anchor(kind="degree").default == 0.4


def test_an_anchor_that_is_asked_for_is_taken() -> None:
    assert chosen_anchor(record(), SolveFlags(anchor="degree")) == Anchor(kind="degree")
    assert chosen_anchor(record("mf"), SolveFlags(anchor="gradient")) == BY_ADAM


def test_an_epoch_of_less_than_a_batch_is_one_batch() -> None:
    few = chosen_anchor(record(epoch_examples=25), FLAGS)
    assert few.scale == adam_scale(0.002, 30, 1.0)


@pytest.mark.parametrize(
    "model",
    [
        record(source="imported", options={}, epochs=None, epoch_examples=None),
        record("mf", options={**ADAM, "optimiser": "lbfgs"}),
        record(epochs=None, epoch_examples=None),
        record(epoch_examples=None),
    ],
)
def test_the_gradient_form_is_refused_where_adams_options_are_not_known(model: ModelRecord) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen_anchor(model, SolveFlags(anchor="gradient"))
    assert str(caught.value).startswith("--anchor = gradient: the model was not trained by adam here")
    assert str(caught.value).endswith("use degree")


def test_without_calibration_damping_and_temperature_are_the_defaults() -> None:
    graph, pairs = (chosen_damping("auto", "auto", model, FLAGS) for model in (record(), record("mf")))
    assert (graph.value, graph.source, graph.anchor, graph.temperature) == (1.0, "default", BY_ADAM, 1.0)
    assert (pairs.value, pairs.source, pairs.anchor.kind, pairs.temperature) == (0.4, "default", "degree", 1.0)
    assert graph.note == pairs.note == ""


def test_a_calibration_gives_damping_and_temperature() -> None:
    found = chosen_damping("auto", "auto", record(calibration=calibration()), FLAGS)
    assert (found.value, found.source, found.anchor, found.temperature) == (0.7, "calibrated", BY_ADAM, 1.5)
    assert found.note == ""


@pytest.mark.parametrize(
    ("damping", "temperature", "expected"),
    [
        (0.2, "auto", (0.2, "given", 1.5)),
        ("auto", 1.0, (0.7, "calibrated", 1.0)),
        (0.2, 3.0, (0.2, "given", 3.0)),
    ],
)
def test_what_is_given_takes_the_place_of_what_was_calibrated(
    damping: Any, temperature: Any, expected: tuple[float, str, float]
) -> None:
    found = chosen_damping(damping, temperature, record(calibration=calibration()), FLAGS)
    assert (found.value, found.source, found.temperature) == expected


def test_a_damping_that_was_calibrated_at_another_temperature_is_told() -> None:
    found = chosen_damping("auto", 1.0, record(calibration=calibration()), FLAGS)
    assert found.note == "the damping was calibrated at --temperature 1.5: run jobs/calibrate.py with this one"
    assert chosen_damping("auto", 1.5, record(calibration=calibration()), FLAGS).note == ""


def test_a_calibration_of_another_anchor_is_left_aside_with_a_note() -> None:
    model = record(calibration=calibration())
    found = chosen_damping("auto", "auto", model, SolveFlags(anchor="degree"))
    assert (found.value, found.source, found.anchor.kind, found.temperature) == (0.4, "default", "degree", 1.0)
    assert found.note == "the damping was calibrated for --anchor gradient: calibrate with this one"
    given = chosen_damping(0.3, "auto", model, SolveFlags(anchor="degree"))
    assert (given.value, given.source, given.temperature, given.note) == (0.3, "given", 1.0, "")


def test_other_solver_options_are_told_by_name() -> None:
    other = SolveFlags(tolerance=0.01, product="exact")
    found = chosen_damping("auto", "auto", record(calibration=calibration()), other)
    assert (found.value, found.source) == (0.7, "calibrated")
    assert "other solver options (tolerance, product)" in found.note


def test_options_that_an_earlier_release_did_not_record_do_not_differ() -> None:
    earlier = {name: value for name, value in FLAGS.solver_settings().items() if name not in ("product", "anchor")}
    found = chosen_damping("auto", "auto", record(calibration=calibration(solver=earlier)), FLAGS)
    assert (found.source, found.note) == ("calibrated", "")


def test_an_anchor_that_is_named_is_the_one_that_auto_found() -> None:
    found = chosen_damping("auto", "auto", record(calibration=calibration()), SolveFlags(anchor="gradient"))
    assert (found.source, found.note) == ("calibrated", "")


@pytest.mark.parametrize(("loss", "warned"), [("bpr", True), ("bce", False)])
def test_a_default_is_doubtful_for_pairwise_models(loss: str, warned: bool) -> None:
    chosen = chosen_damping("auto", "auto", record(spec=ModelSpec(name="lightgcn", loss=loss)), SolveFlags())
    assert chosen.source == "default"
    assert chosen.note.startswith("with bpr the default damping may be far off") == warned
