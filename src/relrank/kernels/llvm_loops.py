"""LLVM code for what plain loops cannot express: sums that stay in vector registers, and prefetches.

Some functions emit code that several kernels need; ``row_code`` makes a loop over the edges of one row, called from
compiled loops. A table is [rows, heads, d], and one call handles one row and one head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

PREFETCH = 16
"""Edges between the prefetch of a vector and its use, in loops that read more than one table."""
SPOT = ("row", "h", "heads", "first", "last", "columns")
"""The first arguments of all row code: row, head, number of heads, the row's edges, int64, and the rows of their
sources, int32 [n_edges]."""

FLOAT, I32, I64 = ir.FloatType(), ir.IntType(32), ir.IntType(64)


def array_of(context: Any, builder: Any, signature: Any, arguments: Any, position: int) -> Any:
    """An array argument, with ``data``, the pointer to its first entry, and ``nitems``."""
    return context.make_array(signature.args[position])(context, builder, arguments[position])


def vector_at(builder: Any, table: Any, number: Any, vector: Any) -> Any:
    """Pointer to the vector of that number in a table."""
    at = builder.gep(table, [builder.mul(number, ir.Constant(I64, vector.count))])
    return builder.bitcast(at, vector.as_pointer())


def splat(builder: Any, value: Any, width: int) -> Any:
    """A vector of one number."""
    undefined = ir.Constant(ir.VectorType(value.type, width), ir.Undefined)
    one = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    return builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, width), [0] * width))


def fma_of(builder: Any, vector: Any) -> Any:
    """The fused multiply-add of vectors of a type."""
    name = f"llvm.fma.v{vector.count}f{32 if vector.element == FLOAT else 64}"
    return cgutils.get_or_insert_function(builder.module, ir.FunctionType(vector, [vector] * 3), name)


def lanes(builder: Any, vector: Any, first: int, count: int) -> Any:
    """Some lanes of a vector."""
    picked = ir.Constant(ir.VectorType(I32, count), list(range(first, first + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), picked)


def prefetch(builder: Any, pointer: Any, size: int) -> None:
    """Prefetch the cache lines of ``size`` bytes."""
    byte_at = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [byte_at, I32, I32, I32]), "llvm.prefetch.p0"
    )
    start = builder.bitcast(pointer, byte_at)
    for line in range(0, size, 64):
        at = builder.gep(start, [ir.Constant(I64, line)])
        builder.call(function, [at, *(ir.Constant(I32, n) for n in (0, 3, 1))])


def row_code(write: Callable[[LoopBuilder], None], names: tuple[str, ...]) -> Any:
    """A function to call from compiled loops; its first two arguments are those of ``width_in_types``.

    Args:
        write: emits the code.
        names: of the arguments after ``SPOT``, arrays and numbers; the first is a table whose type of floats,
            float32 or float64, is computed with.
    """

    @intrinsic
    def code(_typing, *kinds):  # type: ignore[no-untyped-def]
        width = 16 * (len(kinds[0]) - 1) + len(kinds[1]) - 1

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            given = list(zip(signature.args[0], cgutils.unpack_tuple(builder, arguments[0]), strict=True))[2:]
            write(LoopBuilder(context, builder, dict(zip((*SPOT, *names), given, strict=True)), names[0], width))
            return context.get_dummy_value()

        return types.void(types.BaseTuple.from_types(kinds)), emit

    return code


def width_in_types(width: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The width of a vector as the lengths of two tuples, each one longer: sixteens and ones.

    Lengths of tuples are part of their types. Loops that close over the width instead would have another cache key in
    every process, and would be compiled anew.
    """
    return (0,) * (width // 16 + 1), (0,) * (width % 16 + 1)


class LoopBuilder:
    """LLVM code for vectors of one head.

    Args:
        context: numba's.
        builder: llvmlite's.
        arguments: types and values of the function's arguments, by name.
        like: name of the table whose type of floats is computed with.
        width: floats of a vector.

    Attributes:
        value: values of the arguments, arrays as pointers to their first entries.
    """

    def __init__(
        self, context: Any, builder: Any, arguments: dict[str, tuple[Any, Any]], like: str, width: int
    ) -> None:
        self.builder, self.width = builder, width
        bits = arguments[like][0].dtype.bitwidth
        self.bytes = bits // 8
        self.vector = ir.VectorType(FLOAT if bits == 32 else ir.DoubleType(), width)
        self.zero = ir.Constant(self.vector, [0.0] * width)
        self.value: dict[str, Any] = {}
        for name, (kind, value) in arguments.items():
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, value)
                self.value[name] = array.data
                if name == "columns":
                    self.last_edge = builder.sub(array.nitems, ir.Constant(I64, 1))
            else:
                self.value[name] = value

    def of_head(self, row: Any) -> Any:
        """Index of a row's entry for this head in a table [rows, heads, …]."""
        return self.builder.add(self.builder.mul(row, self.value["heads"]), self.value["h"])

    def load(self, table: str, number: Any) -> Any:
        """Vector of that number."""
        return self.builder.load(vector_at(self.builder, self.value[table], number, self.vector), align=self.bytes)

    def store(self, vector: Any, table: str, number: Any) -> None:
        """Write a vector into a table."""
        at = vector_at(self.builder, self.value[table], number, self.vector)
        self.builder.store(vector, at, align=self.bytes)

    def add_wide(self, vector: Any, table: str, number: Any) -> None:
        """Add to a vector of float64."""
        wide = ir.VectorType(ir.DoubleType(), self.width)
        at = vector_at(self.builder, self.value[table], number, wide)
        vector = vector if self.vector == wide else self.builder.fpext(vector, wide)
        self.builder.store(self.builder.fadd(self.builder.load(at, align=8), vector), at, align=8)

    def scalar(self, table: str, number: Any) -> Any:
        """Read an entry of an array."""
        return self.builder.load(self.builder.gep(self.value[table], [number]))

    def set_scalar(self, value: Any, table: str, number: Any) -> None:
        """Write an entry of an array."""
        self.builder.store(value, self.builder.gep(self.value[table], [number]))

    def splat(self, value: Any) -> Any:
        """Vector of one number."""
        return splat(self.builder, value, self.width)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a · b + c``."""
        return self.builder.call(fma_of(self.builder, self.vector), [a, b, c])

    def dot(self, a: Any, b: Any) -> Any:
        """Scalar product, in a fixed order: padded by zeros to a power of two, then halved."""
        size = 1 << (self.width - 1).bit_length()
        folded = self.builder.fmul(a, b)
        if size > self.width:
            all_lanes = ir.Constant(ir.VectorType(I32, size), list(range(size)))
            folded = self.builder.shuffle_vector(folded, self.zero, all_lanes)
        while size > 1:
            size //= 2
            folded = self.builder.fadd(lanes(self.builder, folded, 0, size), lanes(self.builder, folded, size, size))
        return self.builder.extract_element(folded, ir.Constant(I32, 0))

    def sum(self) -> Any:
        """A vector of zeros to add to, kept in registers."""
        return cgutils.alloca_once_value(self.builder, self.zero)

    def add(self, a: Any, b: Any, total: Any) -> None:
        """``total += a · b``."""
        self.builder.store(self.fma(a, b, self.builder.load(total)), total)

    def edges(self) -> Any:
        """The loop over the row's edges."""
        return cgutils.for_range_slice(self.builder, self.value["first"], self.value["last"], ir.Constant(I64, 1))

    def column(self, edge: Any) -> Any:
        """Number of the vector at an edge's source."""
        return self.of_head(self.builder.sext(self.scalar("columns", edge), I64))

    def fetch(self, edge: Any, *tables: str) -> None:
        """Prefetch the vectors of the edge ``PREFETCH`` further on, which may be one of the next rows."""
        ahead = self.builder.add(edge, ir.Constant(I64, PREFETCH))
        ahead = self.builder.select(self.builder.icmp_signed("<", ahead, self.last_edge), ahead, self.last_edge)
        number = self.column(ahead)
        for table in tables:
            at = vector_at(self.builder, self.value[table], number, self.vector)
            prefetch(self.builder, at, self.width * self.bytes)
