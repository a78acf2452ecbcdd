"""The table that the demo and the benchmarks print from the reports of the jobs."""

from typing import Any

from ifru_dist.evaluation.report import figure, markdown_table

COLUMNS = {
    "auc": "test AUC",
    "auc_or": "AUC_or",
    "auc_and": "AUC_and",
    "logit_gap_erased": "logit gap, erased",
    "logit_gap_test": "logit gap, test",
    "membership_auc": "membership AUC",
    "logloss_erased": "logloss, erased",
    "recovery_at_10": "recovery@10",
}


def comparison(reports: dict[str, Any]) -> str:
    """Original, unlearned and retrained side by side, and what each cost."""
    evaluation, seconds = reports["evaluate"], reports["unlearn"]["seconds"]
    retrain = evaluation["seconds"]["retrain"]
    cost = {"original": reports["train"]["seconds"], "unlearned": seconds["total"], "retrained": retrain}
    rows = [
        {
            "model": name,
            **{title: figure(figures[key]) for key, title in COLUMNS.items()},
            "seconds": f"{cost[name]:.2f}",
        }
        for name, figures in ((name, evaluation["methods"][name]) for name in cost)
    ]
    floor = figure(evaluation["noise_floor"])
    return "\n".join(
        [
            markdown_table(rows),
            "",
            f"logit gap: to the mean of the retrained models; one of them against the others (noise floor): {floor}",
            f"unlearning took {seconds['total']:.2f} s for {reports['unlearn']['interactions_erased']} interactions, "
            f"1/{retrain / seconds['total']:.0f} of one retraining ({retrain:.1f} s); "
            f"checking the workspace, Ray and the workers' start took {seconds['startup']:.1f} s more",
            f"training: {reports['train']['interactions_per_second']:,.0f} interactions per second",
        ]
    )
