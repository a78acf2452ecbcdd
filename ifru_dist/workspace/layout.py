"""How rows lie in virtual partitions: row r of a table is in partition r % partitions.

Files hold rows in partition-major order: all rows of partition 0 in ascending order, then partition 1, and so on. The
number of partitions is fixed when a workspace is made, so sums formed per partition never depend on who computes them.
"""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ifru_dist.models.spec import KNOWN_FIELDS_ONLY

HELD_OUT = ("valid", "test")
"""The parts that no model is trained on; a file of erased pairs names them by their index here."""
TableName = Annotated[str, Field(pattern=r"^[\w-]+$")]
"""Letters, digits, _ and -: it is a part of file names."""
MAX_TABLES = 102
"""User, item, and as many further fields as preprocessing takes."""
MAX_PARTITIONS = 65_536
"""Each is a record batch in every partitioned file, so more would cost more than they spread."""
MAX_ROWS = 2**31 - 1
"""Rows of a table at most: files hold them as 32-bit integers."""


@dataclass(frozen=True)
class Layout:
    """Names and sizes of the tables, and the number of virtual partitions that they are split into.

    A global row counts the rows of all tables in their order: users first, then items, then those of further fields.
    """

    __pydantic_config__ = KNOWN_FIELDS_ONLY
    partitions: Annotated[int, Field(ge=1, le=MAX_PARTITIONS)]
    sizes: tuple[Annotated[int, Field(ge=0, le=MAX_ROWS)], ...]
    """Rows of each table."""
    tables: Annotated[tuple[TableName, ...], Field(min_length=2, max_length=MAX_TABLES)] = ("user", "item")
    """Names of the tables; an example has one row of each."""

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit the names."""
        if len(self.sizes) != len(self.tables):
            raise ValueError(f"tables {self.tables} with sizes {self.sizes}: give a size for each table")

    @property
    def n_rows(self) -> int:
        """Rows of all tables together."""
        return sum(self.sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Global row of each table's first row."""
        return tuple(sum(self.sizes[:table]) for table in range(len(self.sizes)))

    def other_tables(self, table: int) -> tuple[int, ...]:
        """All tables but one, in their order."""
        return tuple(other for other in range(len(self.tables)) if other != table)

    def table_range(self, table: int) -> slice:
        """The global rows of one table."""
        return slice(self.offsets[table], self.offsets[table] + self.sizes[table])

    @property
    def items(self) -> range:
        """The global rows of the items."""
        return range(self.offsets[1], self.offsets[1] + self.sizes[1])

    def table_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Table index of global rows (n,)."""
        return np.searchsorted(np.asarray(self.offsets[1:]), rows, side="right")

    def local(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row inside its table of global rows (n,)."""
        return rows - np.asarray(self.offsets, dtype=np.int64)[self.table_of(rows)]

    def global_rows(self, tables: NDArray[np.integer], local: NDArray[np.int64]) -> NDArray[np.int64]:
        """Global rows (n,) from table indices (n,) and rows inside these tables (n,)."""
        return local + np.asarray(self.offsets, dtype=np.int64)[tables]

    def partition_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Virtual partition of global rows (n,)."""
        return self.local(rows) % self.partitions

    def partition_size(self, table: int, partition: int) -> int:
        """Number of rows of one table in one partition."""
        return len(range(partition, self.sizes[table], self.partitions))

    def partition_rows(self, partition: int) -> NDArray[np.int64]:
        """Global rows of one partition: by table, then ascending."""
        parts = [
            np.arange(partition, size, self.partitions, dtype=np.int64) + offset
            for size, offset in zip(self.sizes, self.offsets, strict=True)
        ]
        return np.concatenate(parts)

    def stored_order(self, table: int) -> NDArray[np.int64]:
        """Rows of one table in the order in which files hold them."""
        return np.argsort(np.arange(self.sizes[table]) % self.partitions, kind="stable")

    def bounds(self, table: int) -> NDArray[np.int64]:
        """(partitions + 1,): where each partition begins in the stored order of one table."""
        sizes = [self.partition_size(table, partition) for partition in range(self.partitions)]
        return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
