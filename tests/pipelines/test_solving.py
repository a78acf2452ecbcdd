"""The options of jobs that solve: from the command line to the solver, and what is said of values that cannot work."""

import ast
import dataclasses
import inspect
import re
from typing import Any, Literal

import pytest
import tyro

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError
from ifru_dist.influence.options import SolveOptions
from ifru_dist.models.spec import ModelSpec
from ifru_dist.pipelines.gangs import GangFlags
from ifru_dist.pipelines.solving import Anchor, ChosenDamping, SolveFlags


def parsed(*arguments: str) -> SolveFlags:
    return validated(tyro.cli(SolveFlags, args=list(arguments)))


def chosen(value: float) -> ChosenDamping:
    return ChosenDamping(value=value, source="given", anchor=Anchor(kind="degree"))


def test_without_flags_the_options_are_the_solver_s_own() -> None:
    assert parsed().solve_options(chosen(0.4)) == SolveOptions(damping=0.4)


def test_the_anchor_its_scale_and_the_temperature_come_from_what_was_chosen() -> None:
    found = ChosenDamping(
        value=0.7, source="calibrated", anchor=Anchor(kind="gradient", scale=12.5), temperature=1.5, note="doubtful"
    )
    expected = SolveOptions(damping=0.7, anchor="gradient", anchor_scale=12.5, temperature=1.5, path="flow")
    assert parsed("--anchor", "degree").solve_options(found) == expected


@pytest.mark.parametrize(("anchor", "path"), [("gradient", "flow"), ("degree", "ridge")])
def test_by_itself_the_path_follows_from_the_anchor(anchor: Literal["gradient", "degree"], path: str) -> None:
    found = ChosenDamping(value=1.0, source="given", anchor=Anchor(kind=anchor))
    assert parsed().solve_options(found).path == path
    assert parsed("--path", "ridge").solve_options(found).path == "ridge"
    assert parsed("--path", "flow").solve_options(found).path == "flow"


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("importance", "degree", "degree"),
        ("row_budget", "auto", "auto"),
        ("row_budget", "all", "all"),
        ("row_budget", "0", 0),
        ("hops", "3", 3),
        ("quantile", "0.25", 0.25),
        ("tolerance", "0.02", 0.02),
        ("path", "flow", "flow"),
        ("path", "ridge", "ridge"),
        ("newton_steps", "auto", None),
        ("newton_steps", "2", 2),
        ("max_newton_steps", "7", 7),
        ("curvature", "hessian", "hessian"),
        ("product", "exact", "exact"),
        ("edge_budget", "5000", 5000),
        ("dense", "sampled", "sampled"),
        ("dense_share", "0.5", 0.5),
        ("preconditioner", "block", "block"),
        ("solver_tolerance", "1e-8", 1e-8),
        ("max_iterations", "17", 17),
    ],
)
def test_every_flag_becomes_its_option(flag: str, value: str, expected: object) -> None:
    flags = parsed("--" + flag.replace("_", "-"), value)
    options = flags.solve_options(chosen(0.3))
    assert options == dataclasses.replace(parsed().solve_options(chosen(0.3)), **{flag: expected})
    assert flags.solver_settings() == parsed().solver_settings() | {flag: getattr(flags, flag)}


BAD = [
    ("importance", "random"),
    ("row_budget", -1),
    ("row_budget", "some"),
    ("hops", -1),
    ("hops", 4),
    ("quantile", 1.0),
    ("quantile", -0.1),
    ("tolerance", 0.0),
    ("tolerance", 1.0),
    ("tolerance", float("nan")),
    ("path", "river"),
    ("newton_steps", 0),
    ("newton_steps", "many"),
    ("max_newton_steps", 0),
    ("curvature", "newton"),
    ("product", "sampled"),
    ("edge_budget", 0),
    ("dense", "half"),
    ("dense_share", 0.0),
    ("dense_share", 1.5),
    ("anchor", "rows"),
    ("precision", "half"),
    ("preconditioner", "none"),
    ("solver_tolerance", 0.0),
    ("solver_tolerance", 1.0),
    ("max_iterations", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_named_with_its_option(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(SolveFlags(**{name: value}))
    option = "--" + name.replace("_", "-")
    assert str(caught.value).startswith(f"{option} = {value!r}: input should be ")
    assert set(re.findall(r"--[a-z-]+", str(caught.value))) == {option}


def test_every_option_has_a_bad_value() -> None:
    assert {name for name, _ in BAD} == {entry.name for entry in dataclasses.fields(SolveFlags)}


def texts(flags: type) -> dict[str, str]:
    """The docstring under every field of a class."""
    (body,) = ast.parse(inspect.getsource(flags)).body
    assert isinstance(body, ast.ClassDef)
    found = {}
    for before, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(before, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            assert isinstance(before.target, ast.Name)
            found[before.target.id] = " ".join(str(after.value.value).split())
    return found


@pytest.mark.parametrize("flags", [SolveFlags, GangFlags])
def test_help_shows_the_text_of_every_option(flags: type, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(flags, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert set(texts(flags)) == {entry.name for entry in dataclasses.fields(flags)}
    for name, text in texts(flags).items():
        assert f"--{name.replace('_', '-')} " in shown
        assert text in shown


def test_dense_parameters_and_a_budget_of_edges_do_not_go_together() -> None:
    flags = parsed("--dense", "full", "--edge-budget", "100")
    with pytest.raises(ConfigError, match="--edge-budget = 100: with --dense full"):
        flags.check_model(ModelSpec(name="neumf"))
    parsed("--edge-budget", "100").check_model(ModelSpec(name="neumf"))
