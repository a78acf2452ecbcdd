"""jobs/evaluate.py: quality of the current model, and how well it forgot beside doing nothing and beside retraining."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.config import as_dict, validated
from ifru_dist.errors import ConfigError
from ifru_dist.evaluation.forgetting import HeldLabels, PairScores, forgetting_figures, mean_figure
from ifru_dist.evaluation.ranking import touched_aucs
from ifru_dist.evaluation.report import check_output, figure, markdown_table, write_report
from ifru_dist.interactions import Interactions
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.scoring import Scorer
from ifru_dist.training.loop import TrainOptions, fit
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import Version, open_version

FIGURES = ("auc", "auc_or", "auc_and", "logit_gap_erased", "logit_gap_test", "membership_auc", "logloss_erased")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure the current model of a workspace on its test pairs; with --against retrain, how well it forgot."""

    workspace: Path
    """Folder of the workspace."""
    against: Literal["none", "retrain"] = "none"
    """retrain: train reference models on what is left, and compare with them."""
    references: Annotated[int, Field(ge=1)] = 3
    """Reference models; the noise floor needs two."""
    reference_seed: Annotated[int | None, Field(ge=0)] = None
    """Seed of the first reference; by default the model's seed + 1. The others follow it."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/evaluate-VERSION."""


def evaluate(config: EvaluateConfig) -> int:
    """Run the job; the workspace is only read.

    Raises:
        IfruError: no model, a damaged file, or nothing to compare.
    """
    config = validated(config)
    check_output(config.output)
    workspace = Workspace(config.workspace)
    version = open_version(workspace, check_content=True)
    folder = config.output or workspace.root / "reports" / f"evaluate-{version.manifest.version:06d}"
    report = _Evaluation(config, version).report()
    summary = evaluate_summary(report)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return 0


def evaluate_summary(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows = [
        {"model": name, **{key: figures[key] for key in FIGURES if key in figures}}
        for name, figures in report["methods"].items()
    ]
    lines = [f"version {report['version']}: {report['erased']} interactions erased since training", ""]
    lines.append(markdown_table(rows))
    if "noise_floor" in report:
        lines += ["", f"noise floor of the logit gap on erased pairs: {figure(report['noise_floor'])}"]
    return "\n".join(lines)


class _Evaluation:
    """The models of one version and the pairs they are measured on."""

    def __init__(self, config: EvaluateConfig, version: Version) -> None:
        self._config, self._version = config, version
        self._record = version.model
        self._original = version.original()
        self._erased = _erased_since(version, self._original)
        self._train, self._test = version.train(), version.held_out("test")
        if config.against == "retrain" and len(self._erased) == 0:
            raise ConfigError(
                f"--against retrain: version {version.manifest.version} has erased nothing since it was trained: run "
                "jobs/unlearn.py first, or leave --against out"
            )

    def report(self) -> dict[str, Any]:
        """All figures (docs/reports.md says what each means)."""
        current = Scorer(self._record.spec, self._train, self._version.embeddings())
        models = {"unlearned": self._scores(current)}
        if len(self._erased):
            before = Scorer(self._record.spec, self._original.train(), self._original.embeddings())
            models = {"original": self._scores(before), **models}
        methods: dict[str, dict[str, Any]] = {name: self._aucs(scores.test) for name, scores in models.items()}
        extra = self._compare(models, methods) if self._config.against == "retrain" else {}
        return {
            "job": "evaluate",
            "version": self._version.manifest.version,
            "model": asdict(self._record.spec),
            "erased": len(self._erased),
            **methods["unlearned"],
            "methods": methods,
            **extra,
            "config": as_dict(self._config),
        }

    def _compare(self, models: dict[str, PairScores], methods: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Train the references; adds the forgetting figures to ``methods``, returns those of all together."""
        retrained, seconds = self._references()
        aucs = [self._aucs(scores.test) for scores in retrained]
        methods["retrained"] = {name: mean_figure([figures[name] for figures in aucs]) for name in aucs[0]}
        labels = HeldLabels(
            erased=self._erased.labels,
            test=self._test.labels,
            test_touched=np.asarray(np.isin(self._test.rows, self._erased.rows).any(axis=1)),
        )
        for name, figures in forgetting_figures(models, retrained, labels).items():
            methods[name].update(figures)
        return {
            **methods["unlearned"],
            "noise_floor": methods["retrained"]["logit_gap_erased"],
            "logit_gap_do_nothing": methods["original"]["logit_gap_erased"],
            "references": len(retrained),
            "seconds": {"retrain": float(np.median(seconds)), "references": seconds},
        }

    def _references(self) -> tuple[list[PairScores], list[float]]:
        """Models trained on what is left, as the original was trained: their scores, and each one's seconds."""
        options, valid = TrainOptions(**self._record.options), self._version.held_out("valid")
        first = options.seed + 1 if self._config.reference_seed is None else self._config.reference_seed
        scores, seconds = [], []
        for seed in range(first, first + self._config.references):
            say(f"training reference {seed - first + 1} of {self._config.references} (seed {seed})")
            start = time.perf_counter()
            fitted = fit(
                self._record.spec,
                self._version.layout.n_rows,
                self._train,
                valid,
                TrainOptions(**{**asdict(options), "seed": seed}),
                show_progress=True,
            )
            seconds.append(time.perf_counter() - start)
            scores.append(self._scores(Scorer(self._record.spec, self._train, fitted.embeddings)))
        return scores, seconds

    def _scores(self, scorer: Scorer) -> PairScores:
        """A model's scores of the erased and the test pairs."""
        return PairScores(erased=scorer.scores(self._erased), test=scorer.scores(self._test))

    def _aucs(self, test_scores: NDArray[np.floating]) -> dict[str, float | None]:
        """AUC on all test pairs and on those touched by the erasure."""
        return touched_aucs(test_scores, self._test, np.unique(self._erased.rows))


def _erased_since(version: Version, original: Version) -> Interactions:
    """The examples erased since the model was trained."""
    ids = np.setdiff1d(version.erased_ids(), original.erased_ids(), assume_unique=True)
    return version.all_examples().take(ids)
