"""jobs/evaluate.py: quality of the current model, and how well it forgot beside doing nothing and beside retraining."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError, WorkspaceError
from ifru_dist.evaluation.forgetting import forgetting_figures, mean_and_spread, retrained_figures
from ifru_dist.evaluation.membership import MIN_SHADOWS
from ifru_dist.evaluation.recovered import recovered_shares
from ifru_dist.evaluation.report import check_output, figure, markdown_table, write_report
from ifru_dist.interactions import Interactions
from ifru_dist.models.parameters import Parameters
from ifru_dist.pipelines.measuring import Measured, Measurement
from ifru_dist.pipelines.references import ShadowAttack, measure_references, train_attack
from ifru_dist.workspace.appending import grown, moved
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

COLUMNS = (
    "auc",
    "auc_or",
    "auc_and",
    "recall_at_20",
    "ndcg_at_20",
    "logit_gap_erased",
    "logit_gap_test",
    "membership_auc",
    "logloss_erased",
    "recovery_at_10",
    "membership_attack_auc",
)
"""Figures in the printed table, where they exist; the report holds all."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure the current model of a workspace on its test pairs; with --against retrain, how well it forgot."""

    workspace: Path
    """Folder of the workspace."""
    version: Annotated[int | None, Field(ge=1)] = None
    """The version; default: the current one."""
    against: Literal["none", "retrain"] = "none"
    """retrain: train reference models on what is left, and compare with them."""
    references: Annotated[int, Field(ge=1)] = 3
    """Reference models; the noise floor needs two."""
    reference_seed: Annotated[int | None, Field(ge=0)] = None
    """Seed of the first reference; by default the model's seed + 1. The others follow it, then the shadows."""
    erased_labels: Literal["true", "wrong"] = "true"
    """wrong: the erased interactions were mislabelled, so retraining should be better: report the recovered share."""
    shadows: Annotated[int, Field(ge=0)] = 0
    """Shadow models for the membership attack, an even number of at least 4; each costs a retraining. 0: no attack."""
    attack_pairs: Annotated[int, Field(ge=1)] = 2000
    """The attack is about so many erased pairs at most, and as many test pairs."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/evaluate-VERSION, or evaluate-VERSION-against-retrain."""


def evaluate(config: EvaluateConfig) -> int:
    """Run the job; the workspace is only read.

    Raises:
        IfruError: no model, a damaged file, or nothing to compare.
    """
    config = validated(config)
    _check(config)
    workspace = Workspace(config.workspace)
    version = open_version(workspace, config.version, check_content=True)
    check_output(config.output, workspace.root / "reports")
    against = "-against-retrain" if config.against == "retrain" else ""
    folder = config.output or workspace.root / "reports" / f"evaluate-{version.manifest.version:06d}{against}"
    report = _report(config, version)
    summary = evaluate_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


def evaluate_summary(report: dict[str, Any]) -> str:
    """The report as a table, and what the table cannot say."""
    names = {} if report["erased"] else {"unlearned": "current"}
    rows = [
        {"model": names.get(name, name).replace("_", ", "), **{key: figures[key] for key in COLUMNS if key in figures}}
        for name, figures in report["methods"].items()
    ]
    lines = [f"version {report['version']}: {report['erased']} interactions erased since training", ""]
    lines += [markdown_table(rows), ""]
    if report["erased"] and "original" not in report["methods"]:
        lines.append("the version that was trained is vacuumed: nothing is measured on what was erased since")
    if "noise_floor" in report:
        lines.append(f"noise floor of the logit gap on erased pairs: {figure(report['noise_floor'])}")
    if "recovery_pairs" in report:
        lines.append(f"recovery: over {report['recovery_pairs']} erased pairs with label 1")
    for name, share in report.get("recovered_share", {}).items():
        interval = f"{figure(share['low'])} to {figure(share['high'])}"
        lines.append(f"recovered share of {name}: {figure(share['value'])} (95 %: {interval})")
    if "membership_attack" in report:
        lines.append(_attack_line(report["membership_attack"]))
    return "\n".join(lines).rstrip()


def _attack_line(attack: dict[str, Any]) -> str:
    """What the attack was made with, or why there was none."""
    if attack["reason"] is not None:
        return f"no membership attack: {attack['reason']}"
    return (
        f"membership attack: {attack['shadows']} shadows, {attack['erased_pairs']} erased pairs against "
        f"{attack['test_pairs']} test pairs"
    )


def _check(config: EvaluateConfig) -> None:
    """Refuse options that do not go together, before anything is trained."""
    if config.shadows and (config.shadows < MIN_SHADOWS or config.shadows % 2):
        raise ConfigError(
            f"--shadows = {config.shadows}: half of the shadows are trained with each pair and half without: give an "
            f"even number of at least {MIN_SHADOWS}, or 0 for no membership attack"
        )
    if config.against != "retrain" and config.shadows:
        raise ConfigError(f"--shadows = {config.shadows}: the attack is judged by retraining: add --against retrain")
    if config.against != "retrain" and config.erased_labels == "wrong":
        raise ConfigError(
            "--erased-labels = wrong: the recovered share is measured against retraining: add --against retrain"
        )


def _original(version: Version) -> tuple[Interactions, Parameters]:
    """What the original model was trained on, and its parameters, both in the rows that the version has by now."""
    original = version.original()
    before, now = original.layout, version.layout
    values = original.embeddings()
    if before != now:
        values = grown(values, before, now, version.embeddings())
    return moved(original.trained(), before, now), Parameters(values, original.dense())


def _report(config: EvaluateConfig, version: Version) -> dict[str, Any]:
    """All figures (docs/reports.md says what each means)."""
    measurement = Measurement(version)
    erased = len(measurement.erased)
    if config.against == "retrain":
        _require_erased(measurement)
    models = {}
    if erased:
        models["original"] = measurement.of_model(*_original(version))
    models["unlearned"] = measurement.of_model(measurement.kept, version.parameters())
    methods = {name: measured.figures for name, measured in models.items()}
    extra: dict[str, Any] = {"recovery_pairs": len(measurement.recovery.pairs)} if erased else {}
    if config.against == "retrain":
        methods, compared = _compare(config, measurement, models)
        extra.update(compared)
    return {
        "job": "evaluate",
        "version": version.manifest.version,
        "model": asdict(version.model.spec),
        "erased": measurement.n_erased,
        **methods["unlearned"],
        "methods": methods,
        **extra,
        "config": as_dict(config),
    }


def _require_erased(measurement: Measurement) -> None:
    """Refuse a comparison with retraining where no erased pairs are there to be compared on."""
    version, trained = measurement.version.manifest.version, measurement.version.model.trained_version
    if not measurement.n_erased:
        raise ConfigError(
            f"--against retrain: version {version} has erased nothing since it was trained: run jobs/unlearn.py first, "
            "or leave --against out"
        )
    if not measurement.version.has_original:
        raise WorkspaceError(
            f"--against retrain: version {trained}, which trained the model, was vacuumed, and what was erased since "
            "is in no file any more: leave --against out, or evaluate before jobs/vacuum.py"
        )


def _compare(
    config: EvaluateConfig, measurement: Measurement, models: dict[str, Measured]
) -> tuple[dict[str, dict[str, float | None]], dict[str, Any]]:
    """Train references and shadows: the figures of every model, and those of all together."""
    own = measurement.version.model.options["seed"]
    seed = own + 1 if config.reference_seed is None else config.reference_seed
    references, seconds = measure_references(measurement, config.references, seed)
    first_shadow = seed + config.references
    attack = train_attack(measurement, config.shadows, config.attack_pairs, first_shadow) if config.shadows else None
    methods = _methods(measurement, models, references, attack)
    extra: dict[str, Any] = {
        "noise_floor": methods["retrained"]["logit_gap_erased"],
        "logit_gap_do_nothing": methods["original"]["logit_gap_erased"],
        "references": len(references),
        "seconds": {"retrain": float(np.median(seconds)), "references": seconds},
    }
    if config.erased_labels == "wrong":
        extra["recovered_share"] = recovered_shares(
            models["original"].scores.test,
            models["unlearned"].scores.test,
            [reference.scores.test for reference in references],
            measurement.test,
            measurement.touched_rows,
            seed,
        )
    if attack is not None:
        extra["seconds"]["shadows"] = attack.seconds
        extra["membership_attack"] = {
            "shadows": len(attack.seconds),
            "erased_pairs": len(attack.pool.erased),
            "test_pairs": len(attack.pool.test),
            "reason": attack.pool.too_small(),
        }
    return methods, extra


def _methods(
    measurement: Measurement,
    models: dict[str, Measured],
    references: list[Measured],
    attack: ShadowAttack | None,
) -> dict[str, dict[str, float | None]]:
    """The figures of each model, then the mean and the spread of those of the references."""
    labels, retrained = measurement.labels, [reference.scores for reference in references]

    def whole(measured: Measured, forgetting: dict[str, float | None]) -> dict[str, float | None]:
        attacked = {"membership_attack_auc": attack.auc(measured.scores, labels)} if attack else {}
        return {**measured.figures, **forgetting, **attacked}

    methods = {
        name: whole(measured, forgetting_figures(measured.scores, retrained, labels))
        for name, measured in models.items()
    }
    against_others = retrained_figures(retrained, labels)
    each = [whole(*pair) for pair in zip(references, against_others, strict=True)]
    methods["retrained"], methods["retrained_spread"] = mean_and_spread(each)
    return methods
