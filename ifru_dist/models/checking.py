"""Whether a model's class does what training and unlearning ask of it, tried on a few random rows.

Shapes: n examples, a rows of each.
"""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor

from ifru_dist.errors import ConfigError
from ifru_dist.models.base import Dense, Model, dense_parameters
from ifru_dist.models.spec import SHIPPED

_EXAMPLES = 3
_CLOSE = 1e-6  # of a score that stands alone to the same one among others; sums round by 1e-16
Result = TypeVar("Result")


def check_new_model(model: Model) -> None:
    """See that a model can be trained and unlearned: its score, and of a class of one's own that torch.func takes it.

    Raises:
        ConfigError: the class is not what docs/models.md asks for; the message says in what.
    """
    dense = _tried(model, "initial_dense", lambda: _own_parameters(model))
    check_score(model, model.width, dense)
    if model.name not in SHIPPED:  # whose tests say so: the first use of torch.func costs seconds
        _tried(model, "score, transformed by torch.func,", lambda: _transform(model.scorer, dense))


def check_score(model: Model, width: int, dense: Mapping[str, Tensor]) -> None:
    """See that a model scores rows of some width with the parameters that it has beside them.

    Args:
        model: the model; of one that compares examples the model of a single one is tried.
        width: columns of its embedding rows as they are stored.
        dense: its own parameters as they are stored.

    Raises:
        ConfigError: its class has changed since it was trained, or is not what docs/models.md asks for.
    """
    if width != model.width:
        raise ConfigError(
            f"--model = {model.name}: has rows of {model.width} columns, but those that were trained have {width}: "
            "bring back the class as it was trained, or train anew"
        )
    rows, held = _random_rows(model.scorer), {name: values.double() for name, values in dense.items()}
    score = _tried(model, "score", lambda: _scores(model.scorer, rows, held))
    alone = _tried(model, "score", lambda: torch.cat([_scores(model.scorer, row[None], held) for row in rows]))
    if not bool(torch.isfinite(score).all()):
        raise ConfigError(
            f"--model = {model.name}: scores {score.tolist()} for small random rows: let them be finite numbers"
        )
    if not torch.allclose(score, alone, rtol=_CLOSE, atol=_CLOSE):
        raise ConfigError(
            f"--model = {model.name}: the score of an example depends on the others beside it, or on chance: let it "
            "read the rows of its own example only (docs/models.md)"
        )


def _own_parameters(model: Model) -> dict[str, Tensor]:
    """What training would start from."""
    dense = dense_parameters(model, 0)
    for name, values in dense.items():
        if not isinstance(values, Tensor) or values.dtype != torch.float32:
            raise TypeError(f"{name} is no float32 tensor")
    return dense


def _random_rows(model: Model) -> Tensor:
    """Rows (n, a, width), float64."""
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(_EXAMPLES, model.arity, model.width, generator=generator, dtype=torch.float64)


def _scores(model: Model, rows: Tensor, dense: Dense) -> Tensor:
    """Scores (n,) of rows (n, a, width)."""
    with torch.no_grad():
        score = model.score(rows, dense)
    if not isinstance(score, Tensor):
        raise TypeError(f"{type(score).__name__} instead of a tensor")
    if score.shape != (len(rows),) or score.dtype != rows.dtype:
        raise TypeError(f"{score.dtype} {list(score.shape)} for {rows.dtype} {list(rows.shape)}, not one per example")
    return score


def _transform(model: Model, dense: Dense) -> None:
    """What unlearning does with a score: derivatives by the rows and the own parameters, along a change, and mapped."""
    rows, held = _random_rows(model), {name: values.double() for name, values in dense.items()}

    def total(rows: Tensor, dense: Dense) -> Tensor:
        return model.score(rows, dense).sum()

    torch.func.jvp(lambda rows: torch.func.grad(total)(rows, held), (rows,), (rows,))
    each = torch.func.grad(lambda row, dense: model.score(row[None], dense)[0], argnums=(0, 1))
    torch.func.vmap(each, (0, None))(rows, held)


def _tried(model: Model, what: str, attempt: Callable[[], Result]) -> Result:
    """The result of code that is not ours, whatever it raises told in one line."""
    try:
        return attempt()
    except Exception as error:
        raise ConfigError(
            f"--model = {model.name}: its {what} raised {type(error).__name__} ({error}): see docs/models.md"
        ) from error
