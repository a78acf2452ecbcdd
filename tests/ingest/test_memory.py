import pytest

from ifru_dist.errors import ConfigError
from ifru_dist.ingest import memory
from ifru_dist.ingest.memory import Budget, limit_of, resident_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [("1000000", 10**6), ("2GiB", 2 << 30), ("1.5 GiB", 3 << 29), ("512M", 512 << 20), ("7B", 7), ("3KiB", 3 << 10)],
)
def test_sizes(text: str, size: int) -> None:
    assert limit_of(text) == size


@pytest.mark.parametrize("text", ["", "two", "2 apples", "-1GiB", "0", "1 2"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--memory-limit .* is no size: write bytes"):
        limit_of(text)


def test_without_a_limit_half_of_the_container_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setattr(memory, "_memory_of_machine", lambda: 1000)
    assert limit_of(None) == 500


def test_a_lower_limit_makes_smaller_chunks_and_more_buckets() -> None:
    limits = [1, resident_bytes() + (64 << 20), 1 << 34]
    budgets = [Budget.of(limit, threads=2) for limit in limits]
    chunks = [budget.chunk_rows for budget in budgets]
    assert chunks == sorted(set(chunks))
    buckets = [budget.buckets(1_000_000) for budget in budgets]
    assert buckets == sorted(set(buckets), reverse=True)
    assert budgets[0].buckets(0) == 1
