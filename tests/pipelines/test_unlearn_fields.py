"""Unlearning where an example has a row of a third table: what goes, what is reset, and what still holds of it."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from torch import Tensor

from ifru_dist.interactions import Interactions
from ifru_dist.models.base import Dense, Model
from ifru_dist.models.initial import reset_rows
from ifru_dist.models.spec import ModelSpec
from ifru_dist.workspace.version import Version
from tests.pipelines.batches import report_of, run
from tests.pipelines.small import one_torch_thread
from tests.workspace.datasets import random_interactions
from tests.workspaces import field_id, item_id, make_workspace, user_id

SIZES = (12, 9, 4)
USER, ITEM, FIELD = 11, 20, 24
"""Global rows: a user and an item that met nobody else, and a value of the field that no other pair has."""

SPECS = {
    "fm": ModelSpec(name="fm", dim=3, fields=3, l2=0.02),
    "own": ModelSpec(name="tests.pipelines.test_unlearn_fields:Triple", dim=4, fields=3, l2=0.02),
}


class Triple(Model):
    """A model without parameters beside its rows."""

    def score(self, rows: Tensor, dense: Dense) -> Tensor:
        return (rows[:, 0] * rows[:, 1] + rows[:, 0] * rows[:, 2]).sum(dim=-1)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_torch_thread():
        yield


def data() -> Interactions:
    """Random examples of the other rows; three of the pair, two of them with the value of its own."""
    drawn = random_interactions(np.random.default_rng(3), (11, 8, 3), 150)
    rows = drawn.rows + np.array([0, 1, 2])  # the tables that follow begin later, by the rows that are left out
    mine = [[USER, ITEM, FIELD], [USER, ITEM, FIELD - 1], [USER, ITEM, FIELD]]
    return Interactions(np.concatenate([rows, mine]), np.concatenate([drawn.labels, [1, 0, 1]]).astype(np.float32))


@pytest.fixture(params=SPECS)
def before(request: pytest.FixtureRequest, tmp_path: Path) -> Version:
    embeddings = np.random.default_rng(4).normal(scale=0.5, size=(sum(SIZES), 4))
    return make_workspace(tmp_path / "ws", SIZES, data(), embeddings, SPECS[request.param], partitions=5)


def reset_row(table: str, number: int) -> np.ndarray:
    """What a row holds that lost all its examples."""
    return reset_rows(table, [number], 4, ModelSpec.init_std, 1)[0]


def test_a_pair_goes_with_all_its_fields_and_the_value_that_only_it_had_is_reset(before: Version) -> None:
    root = before.workspace.root
    request = {"user": str(user_id(USER)), "item": item_id(ITEM - SIZES[0]), "scope": "interaction"}
    after = run(root, request)
    assert after.train().rows.tolist() == data().rows[:150].tolist()
    values = after.embeddings()
    assert np.array_equal(values[USER], reset_row("user", USER))
    assert np.array_equal(values[ITEM], reset_row("item", ITEM - SIZES[0]))
    assert np.array_equal(values[FIELD], reset_row("field2", 3))
    assert not np.array_equal(values[FIELD - 1], before.embeddings()[FIELD - 1])
    # A value of a field is not forgotten: it names nobody.
    assert after.find_rows(2, pa.array([str(field_id(3))])).tolist() == [FIELD]
    report = report_of(root, "unlearn-000003")
    assert (report["interactions_erased"], report["subgraph"]["rows_reset"]) == (3, 3)
    # Of two of the three examples no row is left that could hold something; a bias still can.
    still_held = 3 if before.model.spec.name == "fm" else 1
    assert after.model.unsolved_interactions == pytest.approx(still_held * report["influence_residual"])


def test_a_whole_user_goes_with_its_examples_in_every_table(before: Version) -> None:
    user = int(data().rows[0, 0])
    after = run(before.workspace.root, {"user": str(user_id(user)), "item": None, "scope": "user"})
    left = data().rows[:, 0] != user
    assert not left.all()
    assert after.train().rows.tolist() == data().rows[left].tolist()
    assert after.forgotten_rows().tolist() == [user]
    assert user not in after.held_out("test").rows
    incidence = after.mapped_incidence(range(5)).whole()
    expected = np.bincount(data().rows[left].ravel(), minlength=sum(SIZES))
    assert np.array_equal(incidence.degrees, expected[incidence.rows])
