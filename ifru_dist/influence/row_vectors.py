"""Rows of a matrix held in the processor's vector registers, for compiled loops over edges.

A compiler that sees a loop over columns does not know how many there are: it guards, splits and mends the loop at every
edge, which costs more than the arithmetic. Here the width is known when a loop is compiled, and every step is a fixed
sequence of vector instructions: on Book-Crossing (d = 48, one core of two shared ones, float32) a curvature product
took 4.5 ms instead of 16 with loops over columns.

The order of every sum follows from the width alone, and multiply-adds are fused because the instruction says so, never
because a compiler may: equal rows give equal bits on every worker.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import intrinsic, register_model

LINE_BYTES = 64
EDGES_AHEAD = 16
"""How many edges ahead loops ask for a row: far enough for memory to answer."""

_compiled: Any = intrinsic  # what it makes takes fewer arguments than what it is made of
_WORD, _SMALL, _BIT, _BYTE = ir.IntType(64), ir.IntType(32), ir.IntType(1), ir.IntType(8)
_BYTES = {types.float32: 4, types.float64: 8}
_FLOATS = {types.float32: ir.FloatType(), types.float64: ir.DoubleType()}
_NAMES = {types.float32: "f32", types.float64: "f64"}


class RowType(types.Type):
    """A row of ``width`` numbers: as many 64-byte vectors as hold it, the last one filled up with zeros."""

    def __init__(self, dtype: types.Float, width: int) -> None:
        """Of ``width`` numbers of a type."""
        self.dtype, self.width = dtype, width
        self.lanes = LINE_BYTES // _BYTES[dtype]
        self.count = -(-width // self.lanes)
        super().__init__(name=f"RowType({dtype}, {width})")

    @property
    def vector(self) -> ir.Type:
        """One of its vectors."""
        return ir.VectorType(_FLOATS[self.dtype], self.lanes)

    def mask(self, index: int) -> ir.Value | None:
        """Which lanes of a vector hold numbers; None: all."""
        used = min(self.lanes, self.width - index * self.lanes)
        kind = ir.VectorType(_BIT, self.lanes)
        return None if used == self.lanes else ir.Constant(kind, [int(lane < used) for lane in range(self.lanes)])


@register_model(RowType)
class _RowModel(models.PrimitiveModel):
    """How a row is passed from one step of a loop to the next."""

    def __init__(self, manager: Any, row: RowType) -> None:
        """As an array of vectors."""
        super().__init__(manager, row, ir.ArrayType(row.vector, row.count))  # type: ignore[no-untyped-call]


def _call(builder: Any, name: str, kind: ir.Type, *arguments: Any) -> Any:
    """Call an instruction of LLVM by its name."""
    signature = ir.FunctionType(kind, [argument.type for argument in arguments])
    function = cgutils.get_or_insert_function(builder.module, signature, name)  # type: ignore[no-untyped-call]
    return builder.call(function, arguments)


def _zeros(kind: ir.Type) -> ir.Value:
    return ir.Constant(kind, [0.0] * kind.count)


def _place(context: Any, builder: Any, matrix: Any, values: tuple[Any, Any], width: int) -> Any:
    """The address of a row of a C-contiguous matrix of this width, as a number; other matrices do not compile."""
    if matrix.layout != "C":
        raise ValueError("the rows of a matrix must lie one after the other in memory: make it contiguous")
    array = context.make_array(matrix)(context, builder, values[0])
    row_bytes = ir.Constant(_WORD, width * _BYTES[matrix.dtype])
    return builder.add(builder.ptrtoint(array.data, _WORD), builder.mul(values[1], row_bytes))


def _pointers(builder: Any, start: Any, row: RowType, dtype: types.Float) -> list[tuple[Any, ir.Value | None]]:
    """Where the vectors of a row lie in memory that holds ``dtype``, and their masks."""
    kind = ir.VectorType(_FLOATS[dtype], row.lanes)
    step = row.lanes * _BYTES[dtype]
    addresses = [builder.add(start, ir.Constant(_WORD, index * step)) for index in range(row.count)]
    return [(builder.inttoptr(at, kind.as_pointer()), row.mask(index)) for index, at in enumerate(addresses)]


def _read(builder: Any, pointer: Any, mask: ir.Value | None, dtype: types.Float, lanes: int) -> Any:
    """A vector from memory; the lanes that a mask leaves out are zero."""
    kind = ir.VectorType(_FLOATS[dtype], lanes)
    if mask is None:
        return builder.load(pointer, align=_BYTES[dtype])
    name = f"llvm.masked.load.v{lanes}{_NAMES[dtype]}.p0"
    return _call(builder, name, kind, pointer, _SMALL(_BYTES[dtype]), mask, _zeros(kind))


def _write(builder: Any, value: Any, pointer: Any, mask: ir.Value | None, dtype: types.Float, lanes: int) -> None:
    """A vector to memory."""
    if mask is None:
        builder.store(value, pointer, align=_BYTES[dtype])
    else:
        name = f"llvm.masked.store.v{lanes}{_NAMES[dtype]}.p0"
        _call(builder, name, ir.VoidType(), value, pointer, _SMALL(_BYTES[dtype]), mask)


def _total(builder: Any, vector: Any) -> Any:
    """The sum of a vector's lanes, folded in halves."""
    width = vector.type.count
    while width > 1:
        width //= 2
        low, high = (
            builder.shuffle_vector(
                vector,
                ir.Constant(vector.type, ir.Undefined),
                ir.Constant(ir.VectorType(_SMALL, width), list(range(start, start + width))),
            )
            for start in (0, width)
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, _SMALL(0))


def _spread(builder: Any, number: Any, row: RowType) -> Any:
    """A number in all lanes of a vector."""
    undefined = ir.Constant(row.vector, ir.Undefined)
    first = builder.insert_element(undefined, number, _SMALL(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_SMALL, row.lanes), [0] * row.lanes))


def _fused(builder: Any, row: RowType, left: Any, right: Any, added: Any) -> Any:
    """The product of two vectors and a third one added to it, rounded once."""
    return _call(builder, f"llvm.fma.v{row.lanes}{_NAMES[row.dtype]}", row.vector, left, right, added)


def _by_vector(builder: Any, row: RowType, step: Callable[..., Any], *rows: Any) -> Any:
    """A row of what a step makes of the vectors of other rows."""
    result = ir.Constant(ir.ArrayType(row.vector, row.count), ir.Undefined)
    for index in range(row.count):
        parts = (builder.extract_value(part, index) for part in rows)
        result = builder.insert_value(result, step(*parts), index)
    return result


@_compiled(prefer_literal=True)
def load_row(_context: Any, matrix: Any, row: Any, width: Any) -> Any:
    """``matrix[row]`` of a C-contiguous matrix with ``width`` columns."""
    kind = RowType(matrix.dtype, width.literal_value)

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        start = _place(context, builder, matrix, values[:2], kind.width)
        result = ir.Constant(ir.ArrayType(kind.vector, kind.count), ir.Undefined)
        for index, (pointer, mask) in enumerate(_pointers(builder, start, kind, kind.dtype)):
            part = _read(builder, pointer, mask, kind.dtype, kind.lanes)
            result = builder.insert_value(result, part, index)
        return result

    return kind(matrix, types.int64, width), generate


@_compiled(prefer_literal=True)
def zero_row(_context: Any, matrix: Any, width: Any) -> Any:
    """A row of ``width`` zeros in the type of a matrix."""
    kind = RowType(matrix.dtype, width.literal_value)

    def generate(_context: Any, _builder: Any, _signature: Any, _values: Any) -> Any:
        return ir.Constant(ir.ArrayType(kind.vector, kind.count), [_zeros(kind.vector)] * kind.count)

    return kind(matrix, width), generate


@_compiled
def dot_rows(_context: Any, left: Any, right: Any) -> Any:
    """Dot product of two rows."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        total = _zeros(left.vector)
        for index in range(left.count):
            first, second = (builder.extract_value(value, index) for value in values)
            total = _fused(builder, left, first, second, total)
        return _total(builder, total)

    return left.dtype(left, right), generate


@_compiled
def add_scaled(_context: Any, total: Any, factor: Any, row: Any) -> Any:
    """Total + factor * row, each number rounded once."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        spread = _spread(builder, values[1], total)
        return _by_vector(builder, total, lambda t, r: _fused(builder, total, spread, r, t), values[0], values[2])

    return total(total, total.dtype, row), generate


@_compiled
def scaled_row(_context: Any, factor: Any, row: Any) -> Any:
    """Factor * row."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        spread = _spread(builder, values[0], row)
        return _by_vector(builder, row, lambda part: builder.fmul(spread, part), values[1])

    return row(row.dtype, row), generate


@_compiled
def square_row(_context: Any, row: Any) -> Any:
    """The squares of a row's numbers."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return _by_vector(builder, row, lambda part: builder.fmul(part, part), values[0])

    return row(row), generate


@_compiled
def add_rows(_context: Any, left: Any, right: Any) -> Any:
    """The sum of two rows."""

    def generate(_context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        return _by_vector(builder, left, builder.fadd, *values)

    return left(left, right), generate


@_compiled
def add_to_row(_context: Any, matrix: Any, row: Any, added: Any) -> Any:
    """``matrix[row] += added``, in the type of the matrix, which is that of the row or a wider one."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        start = _place(context, builder, matrix, values[:2], added.width)
        kind = ir.VectorType(_FLOATS[matrix.dtype], added.lanes)
        for index, (pointer, mask) in enumerate(_pointers(builder, start, added, matrix.dtype)):
            part = builder.extract_value(values[2], index)
            part = part if matrix.dtype == added.dtype else builder.fpext(part, kind)
            old = _read(builder, pointer, mask, matrix.dtype, added.lanes)
            _write(builder, builder.fadd(old, part), pointer, mask, matrix.dtype, added.lanes)
        return context.get_dummy_value()

    return types.void(matrix, types.int64, added), generate


@_compiled(prefer_literal=True)
def prefetch_row(_context: Any, matrix: Any, row: Any, width: Any) -> Any:
    """Ask memory for ``matrix[row]``; does nothing else, and any row number is harmless."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        start = _place(context, builder, matrix, values[:2], width.literal_value)
        read, keep, data = _SMALL(0), _SMALL(3), _SMALL(1)
        for offset in range(0, width.literal_value * _BYTES[matrix.dtype], LINE_BYTES):
            address = builder.inttoptr(builder.add(start, ir.Constant(_WORD, offset)), _BYTE.as_pointer())
            _call(builder, "llvm.prefetch.p0", ir.VoidType(), address, read, keep, data)
        return context.get_dummy_value()

    return types.void(matrix, types.int64, width), generate
