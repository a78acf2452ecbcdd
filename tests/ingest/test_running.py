import pytest

from ifru_dist.ingest import running
from ifru_dist.ingest.running import Progress, Runner, Task, progress_line


def _failing() -> None:
    raise ValueError("as it was raised")


@pytest.mark.parametrize("scheduler", ["threads", "synchronous"])
def test_results_come_in_the_order_of_the_tasks(scheduler: str) -> None:
    tasks = (Task(lambda number=number: [number], 1) for number in range(50))
    assert list(Runner(scheduler, print).run("counting", tasks, 50)) == [[number] for number in range(50)]


def test_the_scheduler_that_is_handed_in_does_the_work() -> None:
    seen = []

    def scheduler(graph: object, keys: list[object], **_: object) -> list[object]:
        seen.append(graph)
        return [None for _ in keys]

    runner = Runner(scheduler, print)
    assert list(runner.run("nothing", [Task(_failing, 1)])) == [None]
    assert len(seen) == 1
    assert list(runner.within_process().run("something", [Task(lambda: 3, 1)])) == [3]


def test_an_error_of_a_task_comes_out_as_it_was_raised() -> None:
    with pytest.raises(ValueError, match="as it was raised"):
        list(Runner("threads", print).run("failing", [Task(_failing, 1)]))


def test_lines_say_how_far_how_fast_and_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_LINE_EVERY_S", 0.0)
    lines: list[str] = []
    progress = Progress("reading", 10, lines.append)
    for _ in range(5):
        progress.add(2)
    assert len(lines) == 4
    assert lines[0].startswith("reading: 2 of 10 rows, ")
    assert progress_line("pairs", 3_000_000, 10_000_000, 6.0) == (
        "pairs: 3,000,000 of 10,000,000 rows, 500,000 rows/s, 0:14 min left"
    )
