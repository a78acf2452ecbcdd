"""The report of a benchmark in words and tables."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ifru_dist.evaluation.report import markdown_table

_MIB = 1 << 20


def benchmark_summary(report: Mapping[str, Any]) -> str:
    """The report as people read it."""
    data = report["data"]
    lines = [
        f"version {report['version']}: {data['interactions']} interactions of {data['users']} users and "
        f"{data['items']} items, {report['model']['name']}, d = {report['model']['dim']}; "
        f"{report['config']['repeats']} batches each, on {report['machine']['cores']} core(s)",
        "",
        markdown_table([_row(cell) for cell in report["cells"] if "latency_s" in cell]),
        "",
        *_scaling(report["scaling"]),
        *_cold_starts(report["cells"]),
        *_training("retraining", report["retraining"]),
        *_training("one epoch from the current model", report["fine_tuning"]),
        *_cost_model(report["cost_model"]),
        _gpu(report["gpu"]),
        *(f"note: {note}" for note in report["notes"]),
    ]
    return "\n".join(lines)


def _gpu(gpu: Mapping[str, Any]) -> str:
    """Whether GPUs were measured, and why not all of it."""
    said = "measured" if gpu["ran"] else "did not run"
    return f"GPU: {said}: {gpu['reason']}" if gpu["reason"] else f"GPU: {said}"


def _row(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell in the table."""
    latency = cell["latency_s"]
    return {
        "device": cell["device"],
        "workers": cell["workers"],
        "users": cell["batch_size"],
        "interactions": round(cell["interactions"]),
        "by": cell["measured_by"],
        **{f"{name} s": latency[name] for name in ("p50", "p95", "p99")},
        "erased/s": round(cell["interactions_per_second"]),
        "solve s": cell["phases_s"]["solve"],
        "commit s": cell["phases_s"]["commit"],
        "busy s": max(cell["busy_s"]),
        "MiB sent": cell["bytes_exchanged"] / _MIB,
        "MiB a worker": round(max(cell["memory_bytes"]["workers"]) / _MIB),
        "x retrain": cell["speed_up"]["retrain"],
        "x fine-tune": cell["speed_up"]["fine_tune"],
        "fresh job s": cell["fresh_job"] and cell["fresh_job"]["committed_s"],
        "x retrain, fresh": cell["fresh_job"] and cell["fresh_job"]["speed_up"]["retrain"],
    }


def _scaling(scaling: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Strong and weak scaling as tables."""
    titles = {
        "strong": "Strong scaling (the same batch, against the fewest workers):",
        "weak": "Weak scaling (a batch that grows with the workers):",
    }
    for kind, title in titles.items():
        if scaling[kind]:
            yield from (title, "", markdown_table(scaling[kind]), "")


def _cold_starts(cells: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Seconds until workers stand: the first time with Ray's start, then without."""
    by_gang: dict[tuple[str, int], list[float]] = {}
    for cell in cells:
        by_gang.setdefault((cell["device"], cell["workers"]), []).append(cell["cold_start_s"])
    for (device, workers), seconds in by_gang.items():
        again = f", later {min(seconds[1:]):.2f} to {max(seconds[1:]):.2f} s" if seconds[1:] else ""
        yield f"cold start of {workers} workers ({device}), not in the latency: {seconds[0]:.2f} s at first{again}"


def _training(name: str, figures: Mapping[str, Any] | None) -> Iterator[str]:
    """What was compared with."""
    if figures is None:
        yield f"{name}: switched off, so there is no speed-up over it"
    elif figures["seconds"] is None:
        yield f"{name}: no figure: {figures['failure']}"
    else:
        yield (
            f"{name}: {figures['seconds']:.2f} s for {figures['epochs']} epochs on {figures['interactions']} "
            f"interactions with {figures['threads']} thread(s)"
        )


def _cost_model(models: Mapping[str, Any]) -> Iterator[str]:
    """The projection, called what it is."""
    if models["reason"] is not None:
        yield f"no cost model: {models['reason']}"
    for device, model in models["devices"].items():
        worst = max(fitted["worst_check_error"] for fitted in model["patterns"].values())
        yield from (
            "",
            f"Projection, not measured ({device}): batches of {model['batch_size']} users, by a cost model that missed "
            f"the cells which it was not fitted to by {100 * worst:.0f} % at most",
            "",
            markdown_table(_projected(model["patterns"])),
            "",
            *(_end(pattern, fitted["projection"]) for pattern, fitted in model["patterns"].items()),
            "",
        )


def _projected(patterns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The projected numbers of workers as rows of the table."""
    return [
        {"workers": entry["workers"], "if collectives are": f"{pattern}s", "seconds": entry["seconds"]}
        | {f"{name} s": seconds for name, seconds in entry["parts_s"].items()}
        | {"partitions needed": entry["partitions"]}
        for pattern, fitted in patterns.items()
        for entry in fitted["projection"]["by_workers"]
    ]


def _end(pattern: str, projection: Mapping[str, Any]) -> str:
    """Where more workers cease to help."""
    end = projection["scaling_ends_at_workers"]
    if end is None:
        most = projection["curve"][-1]["workers"]
        return f"if collectives are {pattern}s, more workers shorten the batch up to {most}, the most that were tried"
    return (
        f"if collectives are {pattern}s, more than {end} workers do not shorten the batch "
        f"({projection['fewest_seconds']:.3g} s)"
    )
