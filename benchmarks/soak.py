"""jobs/unlearn.py --watch for a long time: requests keep coming, and processes keep being killed.

Files of requests are put into the folder at random moments; the coordinator is killed or asked to stop, or a worker is
killed, and the job is started again; now and then old versions are vacuumed. The last third goes without faults, so
that memory and open files can be seen to stay flat. In the end every request has to be answered once, the data has to
be what the requests leave of it, and the audit clean.

    python -m benchmarks.soak --minutes 20 --requests 2000 --output benchmarks/results
"""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from pydantic import Field

from benchmarks.fault_scenario import Scenario, doubled
from benchmarks.jobs import REPOSITORY
from benchmarks.records import keep
from benchmarks.synthetic import SyntheticConfig, generate
from cluster.processes import kill_processes, processes_of, tagged_environment
from ifru_dist.pipelines.audit import AuditConfig, audit
from ifru_dist.pipelines.preprocess import PreprocessConfig, preprocess
from ifru_dist.pipelines.train import TrainConfig, train
from ifru_dist.workspace.store import Workspace
from ifru_dist.workspace.version import open_version

_WORKER = "ray::_ShardActor"
_JOB = "jobs/unlearn.py"
_FAULTS = ("coordinator killed", "asked to stop", "worker killed")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to do for how long."""

    minutes: Annotated[float, Field(gt=0)] = 20
    """Of requests coming in."""
    requests: Annotated[int, Field(ge=1)] = 2000
    """In all."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Of the job; 0: in its own process."""
    fault_every_s: Annotated[float, Field(gt=0)] = 40
    """Mean time between faults in the first two thirds."""
    vacuum_every: Annotated[int, Field(ge=1)] = 4
    """Starts of the job before which old versions are vacuumed, each so many."""
    seed: int = 1
    """Of everything that is drawn."""
    output: Path | None = None
    """Folder for a dated result file; none is written without it."""


@dataclass
class Soak:
    """A run."""

    config: Config
    scenario: Scenario
    rng: np.random.Generator
    faults: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    samples: list[dict[str, float]] = field(default_factory=list)
    """Of memory, open files and disk, with the number of the start that they belong to."""
    starts: int = 0
    vacuums: int = 0


def main(config: Config) -> int:
    """Run, and hold the end against the requests; returns the exit status."""
    with TemporaryDirectory(prefix="soak-") as folder:
        soak = Soak(config, Scenario(Path(folder)), np.random.default_rng(config.seed))
        before = _prepare(soak)
        files = _drawn_requests(soak, before)
        _run(soak, files)
        record = _judged(soak, before, pd.concat(files))
    print(json.dumps({name: value for name, value in record.items() if name != "samples"}, indent=1))
    if config.output is not None:
        keep(config.output, "soak", record)
    return int(bool(record["lost"] or record["doubled"] or not record["data_as_asked"] or record["audit_status"]))


def _prepare(soak: Soak) -> pd.DataFrame:
    """The workspace with a trained model; returns its training pairs (user, item) as texts."""
    root, logs = soak.scenario.root, soak.scenario.folder / "logs.parquet"
    generate(SyntheticConfig(interactions=60_000, users=2_000, items=1_000, seed=soak.config.seed, output=logs))
    preprocess(PreprocessConfig(logs=str(logs), workspace=root, positive_threshold=5))
    train(TrainConfig(workspace=root, model="mf", dim=16, epochs=10, patience=10))
    soak.scenario.inbox.mkdir()
    return _training_pairs(root)


def _training_pairs(root: Path) -> pd.DataFrame:
    """The pairs that are left, as texts; those of forgotten rows have none left."""
    version = open_version(Workspace(root))
    rows, ids = (
        version.train().pairs,
        [version.ids(table).cast("string").to_numpy(zero_copy_only=False) for table in (0, 1)],
    )
    return pd.DataFrame({"user": ids[0][rows[:, 0]], "item": ids[1][rows[:, 1] - version.layout.offsets[1]]})


def _drawn_requests(soak: Soak, pairs: pd.DataFrame) -> list[pd.DataFrame]:
    """Files of 1 to 30 requests: interactions, some whole users and items, some asked for twice."""
    count, rng = soak.config.requests, soak.rng
    drawn = pairs.iloc[rng.choice(len(pairs), count)].reset_index(drop=True).astype(object)
    drawn["scope"] = rng.choice(["interaction", "user", "item"], count, p=[0.94, 0.05, 0.01])
    drawn.loc[drawn["scope"] == "user", "item"] = None
    drawn.loc[drawn["scope"] == "item", "user"] = None
    again = rng.random(count) < 0.05
    drawn[again] = drawn.shift(10)[again].where(drawn.shift(10)[again].notna().any(axis=1), drawn[again])
    drawn["request_id"] = [f"ticket {number}" for number in range(count)]
    bounds, files = 0, []
    while bounds < count:
        size = int(rng.integers(1, 31))
        files.append(drawn.iloc[bounds : bounds + size])
        bounds += size
    return files


def _run(soak: Soak, files: list[pd.DataFrame]) -> None:
    """Put the files in over the time, with faults in its first two thirds; then let the job finish."""
    length, rng = soak.config.minutes * 60, soak.rng
    due = iter(zip(sorted(rng.uniform(0, length, len(files))), files, strict=True))
    following, began, number = next(due, None), time.monotonic(), 0
    job, tag = _start(soak)
    fault_at = rng.exponential(soak.config.fault_every_s)
    sample_at = 0.0
    try:
        while (now := time.monotonic() - began) < length or following is not None:
            while following is not None and following[0] <= now:
                _put(soak.scenario.inbox, number, following[1])
                following, number = next(due, None), number + 1
            if now >= sample_at:
                sample_at = now + 5
                _sample(soak, tag, now)
            if now >= fault_at and now < length * 2 / 3:
                _disturb(soak, job, tag)
                fault_at = now + rng.exponential(soak.config.fault_every_s)
            if job.poll() is not None:
                _ended(soak, job, tag)
                job, tag = _start(soak)
            time.sleep(0.1)
        _stop(soak, job, tag)
    finally:
        kill_processes(tag, {job.pid})
    job, tag = _start(soak, "--until-empty")
    job.wait(600)
    _ended(soak, job, tag)


def _put(inbox: Path, number: int, rows: pd.DataFrame) -> None:
    """Put a file in as a sender should."""
    aside = inbox / f"requests-{number:05d}.part"
    rows.to_csv(aside, index=False)
    aside.rename(aside.with_suffix(".csv"))


def _start(soak: Soak, *options: str) -> "tuple[subprocess.Popen[bytes], str]":
    """Start the job, now and then behind a vacuum."""
    if soak.starts and soak.starts % soak.config.vacuum_every == 0:
        vacuum = [sys.executable, "jobs/vacuum.py", "--workspace", str(soak.scenario.root), "--keep-versions", "3"]
        subprocess.run(vacuum, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        soak.vacuums += 1
    soak.starts += 1
    tag = uuid.uuid4().hex
    command = [sys.executable, _JOB, "--workspace", str(soak.scenario.root), "--watch", str(soak.scenario.inbox)]
    fixed = ["--workers", str(soak.config.workers), "--max-wait-s", "1", "--collective-timeout-s", "10"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    job = subprocess.Popen(
        [*command, *fixed, "--residual-budget", "1e9", *options],
        cwd=REPOSITORY,
        env=environment | tagged_environment(tag),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    return job, tag


def _disturb(soak: Soak, job: "subprocess.Popen[bytes]", tag: str) -> None:
    """One fault."""
    fault = _FAULTS[int(soak.rng.integers(len(_FAULTS)))]
    workers = [process.pid for process in processes_of(tag, {job.pid}) if _WORKER in process.command]
    if fault == "worker killed" and not workers:
        return
    soak.faults[fault] += 1
    if fault == "worker killed":
        os.kill(workers[int(soak.rng.integers(len(workers)))], signal.SIGKILL)
    else:
        job.send_signal(signal.SIGKILL if fault == "coordinator killed" else signal.SIGTERM)


def _stop(soak: Soak, job: "subprocess.Popen[bytes]", tag: str) -> None:
    """Ask the job to stop, and wait."""
    job.send_signal(signal.SIGTERM)
    job.wait(300)
    _ended(soak, job, tag)


def _ended(soak: Soak, job: "subprocess.Popen[bytes]", tag: str) -> None:
    """Count how the job ended, and see to it that nothing of it is left."""
    soak.statuses[job.wait()] += 1
    kill_processes(tag, {job.pid})


def _sample(soak: Soak, tag: str, now: float) -> None:
    """Memory and open files of the job's processes that hold data, and the disk space of the workspace."""
    wanted = [process.pid for process in processes_of(tag, ()) if _WORKER in process.command or _JOB in process.command]
    sizes = [_resident_mib(pid) for pid in wanted]
    disk = sum(path.stat().st_size for path in soak.scenario.root.rglob("*") if path.is_file())
    soak.samples.append(
        {
            "seconds": round(now, 1),
            "start": soak.starts,
            "processes": len(wanted),
            "resident_mib": round(sum(sizes), 1),
            "open_files": sum(_open_files(pid) for pid in wanted),
            "disk_mib": round(disk / 2**20, 2),
        }
    )


def _resident_mib(pid: int) -> float:
    """Resident memory of a process; 0 if it has ended."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _open_files(pid: int) -> int:
    """Open files of a process; 0 if it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _judged(soak: Soak, before: pd.DataFrame, asked: pd.DataFrame) -> dict[str, Any]:
    """What is reported of the run."""
    inbox, root = soak.scenario.inbox, soak.scenario.root
    receipts = [json.loads(path.read_text()) for path in (inbox / "receipts").glob("*.json")]
    rows = [row for receipt in receipts for row in receipt["requests"]]
    gone = before["user"].isin(asked.loc[asked["scope"] == "user", "user"])
    gone |= before["item"].isin(asked.loc[asked["scope"] == "item", "item"])
    single = asked[asked["scope"] == "interaction"]
    gone |= pd.MultiIndex.from_frame(before).isin(pd.MultiIndex.from_frame(single[["user", "item"]]))
    expected, found = (
        Counter(before[~gone].itertuples(index=False)),
        Counter(_training_pairs(root).itertuples(index=False)),
    )
    calm = [sample for sample in soak.samples if sample["start"] == soak.samples[-1]["start"]]
    status = audit(AuditConfig(workspace=root, output=soak.scenario.folder / "audit"))
    return {
        "minutes": soak.config.minutes,
        "requests": soak.config.requests,
        "workers": soak.config.workers,
        "versions": Workspace(root).versions()[-1],
        "faults": dict(soak.faults),
        "starts": soak.starts,
        "vacuums": soak.vacuums,
        "ended_with": {str(status): count for status, count in soak.statuses.items()},
        "answered": len(rows),
        "statuses": dict(Counter(row["status"] for row in rows)),
        "lost": soak.config.requests - len(rows),
        "doubled": doubled(soak.scenario),
        "data_as_asked": expected == found,
        "audit_status": status,
        "disk_mib": {"first": soak.samples[0]["disk_mib"], "most": max(s["disk_mib"] for s in soak.samples)},
        "last_start": {
            name: {"first": calm[len(calm) // 4][name], "last": calm[-1][name]}
            for name in ("resident_mib", "open_files")
        },
        "samples": soak.samples,
    }


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Config)))
