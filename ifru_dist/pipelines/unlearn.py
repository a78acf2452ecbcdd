"""jobs/unlearn.py: erase requests from the data and the model of a workspace: a file of them, or as they come."""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ifru_dist.config import validated
from ifru_dist.errors import ConfigError, InputError
from ifru_dist.evaluation.report import check_output, write_report
from ifru_dist.pipelines.erasing import EraseFlags, Eraser
from ifru_dist.pipelines.gangs import Workers
from ifru_dist.pipelines.inbox import Inbox, check_folder
from ifru_dist.pipelines.progress import say
from ifru_dist.pipelines.requests import read_requests
from ifru_dist.pipelines.routing import Routed
from ifru_dist.pipelines.unlearn_report import BatchResult, batch_line, dry_run_summary, unlearn_report, unlearn_summary
from ifru_dist.pipelines.watching import Watch, stopped_by_signal
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

_OF_A_FILE, _OF_A_FOLDER = ("dry_run", "output", "allow_unmatched"), ("max_batch", "max_wait_s", "until_empty")
"""Options that go with --requests alone, and with --watch alone."""
RETRAINING_DUE = 9
"""Exit status when all is done, but the model is past its residual budget."""


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(EraseFlags):
    """Erase interactions from a trained model and its data, without retraining."""

    workspace: Path
    """Folder of the workspace; on a cluster, on a file system that all nodes share."""
    requests: Path | None = None
    """Parquet, CSV or JSON lines: columns user, item, optionally scope (interaction, user or item) and request_id. One
    batch; give this or --watch."""
    watch: Path | None = None
    """Folder, which must be there, into which such files are put: they are erased as they come, until SIGTERM or
    Ctrl-C, and each is answered with a receipt (docs/formats.md)."""
    max_batch: Annotated[int, Field(ge=1)] = 10_000
    """With --watch: requests in a batch at most."""
    max_wait_s: Annotated[float, Field(ge=0)] = 5.0
    """With --watch: how long a request waits for others to make a batch with."""
    until_empty: bool = False
    """With --watch: end when all that was put in is answered."""
    lock_wait_s: Annotated[float, Field(ge=0)] = 0.0
    """How long to wait while another job holds the workspace; 0: refuse at once."""
    allow_unmatched: bool = False
    """With --requests: settle also a file of which not one request matches the data, as not found; otherwise it is
    refused as a probable mistake, and leaves no trace."""
    dry_run: bool = False
    """Show what would be erased, and change nothing."""
    output: Path | None = None
    """Where the report goes; default: WORKSPACE/reports/unlearn-VERSION."""


def unlearn(config: UnlearnConfig) -> int:
    """Run the job: a batch of requests is one new version and one report.

    Returns:
        0, also when nothing was left to do because everything was erased before; RETRAINING_DUE when the batches, if
        there was something to do, were committed and what stays unsolved is past the budget.

    Raises:
        IfruError: the batch was not committed, and the workspace is as it was before it.
    """
    started = time.perf_counter()
    config = validated(config)
    if (config.requests is None) == (config.watch is None):
        raise ConfigError("--requests and --watch: give one of them: a file of requests, or a folder to watch")
    _check_options(config)
    return _watch(config, config.watch) if config.watch else _erase_file(config, config.requests or Path(), started)


def _check_options(config: UnlearnConfig) -> None:
    """Refuse options that would do nothing, so far as they differ from their defaults."""
    useless, place, why = (
        (_OF_A_FILE, "--requests", "a watched folder is answered by receipts and a report per batch")
        if config.watch
        else (_OF_A_FOLDER, "--watch", "a file of requests is one batch, and the job ends with it")
    )
    for name in useless:
        if getattr(config, name) != getattr(UnlearnConfig, name):
            raise ConfigError(f"--{name.replace('_', '-')} goes with {place}: {why}")


def _erase_file(config: UnlearnConfig, path: Path, started: float) -> int:
    """Erase a file of requests, or look at it."""
    requests = read_requests(path)
    workspace = _workspace(config)

    def check(routed: Routed) -> None:
        if not config.allow_unmatched:
            _refuse_if_nothing_matched(routed, path)

    with nullcontext() if config.dry_run else workspace.lock("unlearn", config.lock_wait_s), Workers(config) as workers:
        eraser = Eraser(open_version(workspace, check_content=True), config, workers)
        result = eraser.look(requests) if config.dry_run else eraser.erase(requests, check)
    if config.dry_run:
        check(result.routed)
        print(dry_run_summary(result))
        return 0
    result.seconds["job"] = time.perf_counter() - started
    folder = config.output or workspace.root / "reports" / report_name(result)
    report = unlearn_report(result, config)
    summary = unlearn_summary(report, result.residual_budget)
    write_report(folder, report, summary)
    print(f"{summary}\nreport: {folder}")
    return RETRAINING_DUE if result.residual_budget.retraining_due else 0


def _watch(config: UnlearnConfig, folder: Path) -> int:
    """Erase what is put into a folder, until a signal."""
    workspace, due = _workspace(config), False
    if folder.resolve().is_relative_to(workspace.root.resolve()):
        raise ConfigError(f"--watch {folder}: lies in the workspace, whose files are its own: watch a folder elsewhere")
    check_folder(folder)

    def report(result: BatchResult) -> None:
        nonlocal due
        due = result.residual_budget.retraining_due
        if result.version_after > result.version_before:
            report = unlearn_report(result, config)
            summary = unlearn_summary(report, result.residual_budget)
            write_report(workspace.root / "reports" / report_name(result), report, summary)
        say(batch_line(result))

    try:
        with (
            workspace.lock("unlearn", config.lock_wait_s),  # a signal ends the wait for it
            stopped_by_signal() as stop,
            Workers(config) as workers,
        ):
            eraser = Eraser(open_version(workspace, check_content=True), config, workers)
            inbox = Inbox(folder.absolute(), eraser.key)
            watch = Watch(eraser, inbox, max_batch=config.max_batch, max_wait_s=config.max_wait_s, on_batch=report)
            say(f"watching {folder}: put request files there")
            watch.run(stop, until_empty=config.until_empty)
    except SystemExit:  # raised by Ray's own handler of signals, which is in place while Ray starts
        say("stopped while Ray started: nothing is half done")
        return 0
    say(f"stopped at version {eraser.version.manifest.version}: nothing is half done")
    return RETRAINING_DUE if due else 0


def _workspace(config: UnlearnConfig) -> Workspace:
    """The workspace, which must hold something; its reports' folder must be writable unless nothing is written."""
    workspace = Workspace(config.workspace)
    workspace.manifest()  # before the lock, which would make the folder
    check_output(config.output, None if config.dry_run else workspace.root / "reports")
    return workspace


def report_name(result: BatchResult) -> str:
    """Folder of a report; one of a batch that did nothing must not replace that of the batch which made the version."""
    name = f"unlearn-{result.version_after:06d}"
    return name if result.version_after > result.version_before else f"{name}-nothing-to-do"


def _refuse_if_nothing_matched(routed: Routed, path: Path) -> None:
    """A file of which not one request fits the data is more likely a mistake than a deletion."""
    counts = routed.counts()
    if counts["applied"] or counts["duplicate"]:
        return
    examples = [f"row {row}: {entry.reason}" for row, entry in enumerate(routed.entries, start=1)][:3]
    raise InputError(
        f"none of the {counts['received']} requests of {path} matches the data "
        f"({'; '.join(examples)}): check the ids and the columns, or settle them as not found with --allow-unmatched; "
        "nothing was changed"
    )
