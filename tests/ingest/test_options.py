from typing import Any

import pytest

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError
from ifru_dist.ingest.options import PrepareOptions

_GIVEN = {"valid": "v", "test": "t"}


@pytest.mark.parametrize(
    "options",
    [
        {"positive_threshold": 5.0, "k_core": 5, "split": (0.7, 0.1, 0.2)},
        {"label_column": "label", **_GIVEN},
        {"positive_threshold": 0.0, **_GIVEN},
        {"positive_threshold": 0.0, "test": "t"},
    ],
)
def test_options_that_go_together(options: dict[str, Any]) -> None:
    validated(PrepareOptions(logs="logs", **options)).check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--positive-threshold is missing"),
        ({"positive_threshold": 1.0, "label_column": "label"}, "--label-column label with --positive-threshold 1.0"),
        ({"positive_threshold": 1.0, "valid": "v"}, "--valid v without --test: .* has a test part: name it"),
        ({"positive_threshold": 1.0, "k_core": 2, **_GIVEN}, "--k-core 2 with --test"),
        ({"positive_threshold": 1.0, "split": (0.8, 0.1, 0.1), **_GIVEN}, "--split 0.8 0.1 0.1 with --test"),
        ({"positive_threshold": 1.0, "split": (0.6, 0.2, 0.3)}, "--split 0.6 0.2 0.3: shares must sum to 1"),
        ({"positive_threshold": 1.0, "split": (0.0, 0.5, 0.5)}, "training needs more than 0"),
        ({"positive_threshold": 1.0, "item_column": "user"}, "column 'user' is named for two purposes"),
        ({"positive_threshold": 1.0, "fields": ("hour", "hour")}, "column 'hour' is named for two purposes"),
        ({"positive_threshold": 1.0, "fields": ("rating",)}, "column 'rating' is named for two purposes"),
        ({"positive_threshold": 1.0, "fields": ("label",)}, "--fields 'label' cannot name a table: rename"),
        ({"positive_threshold": 1.0, "fields": ("a/b",)}, "--fields 'a/b' cannot name a table: rename"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PrepareOptions(logs="logs", **options).check()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("k_core", 0),
        ("split", (1.2, -0.1, -0.1)),
        ("max_bad_share", 1.5),
        ("seed", -1),
        ("positive_threshold", float("nan")),
    ],
)
def test_values_out_of_range_are_named(field: str, value: Any) -> None:
    options = {"logs": "logs", "positive_threshold": 1.0, field: value}
    with pytest.raises(ConfigError, match="--" + field.replace("_", "-")):
        validated(PrepareOptions(**options))
