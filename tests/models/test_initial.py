import numpy as np
import torch

from ifru_dist.models.initial import initial_embeddings, reset_rows, unseen_rows


def test_initial_embeddings_are_normal_with_the_given_deviation() -> None:
    embeddings = initial_embeddings(2_003, 16, 1e-3, seed=5)
    assert embeddings.shape == (2_003, 16)
    assert embeddings.dtype == torch.float32
    assert abs(embeddings.mean().item()) < 3e-5
    assert abs(embeddings.std().item() - 1e-3) < 2e-5


def test_initial_embeddings_depend_on_the_seed_alone() -> None:
    torch.manual_seed(0)
    first = initial_embeddings(11, 3, 1.0, seed=1)
    torch.manual_seed(99)
    assert torch.equal(first, initial_embeddings(11, 3, 1.0, seed=1))
    assert not torch.equal(first, initial_embeddings(11, 3, 1.0, seed=2))


def test_unseen_rows_are_normal_with_the_given_deviation() -> None:
    rows = unseen_rows("user", [str(number) for number in range(2_003)], 16, 1e-3, seed=5)
    assert rows.shape == (2_003, 16)
    assert rows.dtype == np.float32
    assert abs(rows.mean()) < 3e-5
    assert abs(rows.std() - 1e-3) < 2e-5


def test_an_unseen_row_does_not_depend_on_the_other_rows() -> None:
    together = unseen_rows("user", ["a", "b", "c"], 8, 0.1, seed=5)
    assert np.array_equal(together[2], unseen_rows("user", ["c"], 8, 0.1, seed=5)[0])
    assert np.array_equal(together[::-1], unseen_rows("user", ["c", "b", "a"], 8, 0.1, seed=5))


def test_an_unseen_row_depends_on_seed_table_and_id() -> None:
    row = unseen_rows("user", ["a"], 8, 0.1, seed=5)
    for other in (
        unseen_rows("user", ["a"], 8, 0.1, seed=6),
        unseen_rows("item", ["a"], 8, 0.1, seed=5),
        unseen_rows("user", ["b"], 8, 0.1, seed=5),
    ):
        assert not np.isclose(row, other).any()


def test_unseen_rows_stay_what_they_were_in_earlier_releases() -> None:
    # A workspace made by one release may be unlearned by workers of the next.
    expected = np.array([[-0.003389589721336961, -0.006241342984139919, 0.009813239797949791]], dtype=np.float32)
    np.testing.assert_array_equal(unseen_rows("item", ["né 42"], 3, 0.01, seed=7), expected)


def test_reset_rows_depend_on_seed_table_and_number_alone_and_are_those_of_no_id() -> None:
    rows = reset_rows("user", np.arange(2_003), 16, 1e-3, seed=5)
    assert abs(rows.std() - 1e-3) < 2e-5
    assert np.array_equal(rows[[7, 3]], reset_rows("user", [7, 3], 16, 1e-3, seed=5))
    for other in (
        reset_rows("user", [7], 16, 1e-3, seed=6),
        reset_rows("item", [7], 16, 1e-3, seed=5),
        unseen_rows("user", ["7"], 16, 1e-3, seed=5),
        unseen_rows("user", ["row 7"], 16, 1e-3, seed=5),
    ):
        assert not np.isclose(rows[7], other, rtol=1e-6, atol=0).any()


def test_no_ids_give_no_rows() -> None:
    assert unseen_rows("user", [], 8, 0.1, seed=5).shape == (0, 8)
