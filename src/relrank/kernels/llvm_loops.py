"""Loops over the edges of a row whose sums stay in registers, written as LLVM code and called from compiled loops.

Sums of a vector's length that live from edge to edge, and prefetches, are what plain Python cannot ask for. A table
is [rows, heads, d], and one call is about one row and one head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from relrank.kernels.spmm import PREFETCH

SPOT = ("row", "h", "heads", "first", "last", "columns")
"""The first arguments of all code: row, head and number of heads, then the row's edges, int64, and their other ends,
int32 [n_edges]."""


def row_code(write: Callable[[LoopBuilder], None], names: tuple[str, ...]) -> Any:
    """A function for compiled loops, whose first two arguments are of ``width_in_types``.

    Args:
        write: the code.
        names: of the arguments after ``SPOT``: arrays and numbers; the first array is a table of the floats computed
            with, float32 or float64.
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
    """What tells the compiler the width of a vector, by the lengths of two tuples: sixteens and ones, one more each.

    A width that loops closed over would give them another key in every process, so that none would find what another
    one compiled and kept.
    """
    return (0,) * (width // 16 + 1), (0,) * (width % 16 + 1)


class LoopBuilder:
    """LLVM code for vectors of one head.

    Args:
        context: numba's.
        builder: where the code goes.
        arguments: of the function, type and value by name.
        like: the argument whose floats are computed with.
        width: of a vector.

    Attributes:
        value: the function's arguments, arrays as pointers to their first entries.
    """

    def __init__(
        self, context: Any, builder: Any, arguments: dict[str, tuple[Any, Any]], like: str, width: int
    ) -> None:
        self.builder, self.width = builder, width
        bits = arguments[like][0].dtype.bitwidth
        self.bytes = bits // 8
        self.element = ir.FloatType() if bits == 32 else ir.DoubleType()
        self.i32, self.i64 = ir.IntType(32), ir.IntType(64)
        self.vector = ir.VectorType(self.element, width)
        self.zero = ir.Constant(self.vector, [0.0] * width)
        self.value: dict[str, Any] = {}
        for name, (kind, value) in arguments.items():
            if isinstance(kind, types.Array):
                array = context.make_array(kind)(context, builder, value)
                self.value[name] = array.data
                if name == "columns":
                    self.last_edge = builder.sub(array.nitems, ir.Constant(self.i64, 1))
            else:
                self.value[name] = value
        self._fma = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(self.vector, [self.vector] * 3), f"llvm.fma.v{width}f{bits}"
        )
        byte_at = ir.IntType(8).as_pointer()
        self._prefetch = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(ir.VoidType(), [byte_at, *[self.i32] * 3]), "llvm.prefetch.p0"
        )

    def of_head(self, row: Any) -> Any:
        """Number of a row's vector in a table [rows, heads, d], or of its number in one [rows, heads]."""
        return self.builder.add(self.builder.mul(row, self.value["heads"]), self.value["h"])

    def _at(self, table: str, number: Any) -> Any:
        return self.builder.gep(self.value[table], [self.builder.mul(number, ir.Constant(self.i64, self.width))])

    def load(self, table: str, number: Any) -> Any:
        """Vector of that number."""
        at = self.builder.bitcast(self._at(table, number), self.vector.as_pointer())
        return self.builder.load(at, align=self.bytes)

    def store(self, vector: Any, table: str, number: Any) -> None:
        """Into a table."""
        at = self.builder.bitcast(self._at(table, number), self.vector.as_pointer())
        self.builder.store(vector, at, align=self.bytes)

    def add_wide(self, vector: Any, table: str, number: Any) -> None:
        """Add to a vector of float64."""
        wide = ir.VectorType(ir.DoubleType(), self.width)
        at = self.builder.bitcast(self._at(table, number), wide.as_pointer())
        vector = vector if self.vector == wide else self.builder.fpext(vector, wide)
        self.builder.store(self.builder.fadd(self.builder.load(at, align=8), vector), at, align=8)

    def scalar(self, table: str, number: Any) -> Any:
        """Entry of an array."""
        return self.builder.load(self.builder.gep(self.value[table], [number]))

    def set_scalar(self, value: Any, table: str, number: Any) -> None:
        """Entry of an array."""
        self.builder.store(value, self.builder.gep(self.value[table], [number]))

    def splat(self, value: Any) -> Any:
        """Vector of one number."""
        one = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, ir.Constant(self.i32, 0))
        mask = ir.Constant(ir.VectorType(self.i32, self.width), [0] * self.width)
        return self.builder.shuffle_vector(one, ir.Constant(self.vector, ir.Undefined), mask)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """``a · b + c``."""
        return self.builder.call(self._fma, [a, b, c])

    def dot(self, a: Any, b: Any) -> Any:
        """Scalar product, in a fixed order: filled with zeros up to a power of two, then halved."""
        size = 1 << (self.width - 1).bit_length()
        lanes = ir.Constant(ir.VectorType(self.i32, size), list(range(size)))
        folded = self.builder.fmul(a, b)
        if size > self.width:
            folded = self.builder.shuffle_vector(folded, self.zero, lanes)
        while size > 1:
            size //= 2
            halves = []
            for first in (0, size):
                picked = ir.Constant(ir.VectorType(self.i32, size), list(range(first, first + size)))
                halves.append(self.builder.shuffle_vector(folded, ir.Constant(folded.type, ir.Undefined), picked))
            folded = self.builder.fadd(*halves)
        return self.builder.extract_element(folded, ir.Constant(self.i32, 0))

    def sum(self) -> Any:
        """A vector that is added to, in registers."""
        return cgutils.alloca_once_value(self.builder, self.zero)

    def add(self, a: Any, b: Any, total: Any) -> None:
        """``total += a · b``."""
        self.builder.store(self.fma(a, b, self.builder.load(total)), total)

    def edges(self) -> Any:
        """The loop over the row's edges."""
        one = ir.Constant(self.i64, 1)
        return cgutils.for_range_slice(self.builder, self.value["first"], self.value["last"], one)

    def column(self, edge: Any) -> Any:
        """Number of the vector at an edge's other end."""
        return self.of_head(self.builder.sext(self.scalar("columns", edge), self.i64))

    def fetch(self, edge: Any, *tables: str) -> None:
        """Ask for the vectors that some edges further, perhaps of the next rows, will be needed."""
        ahead = self.builder.add(edge, ir.Constant(self.i64, PREFETCH))
        ahead = self.builder.select(self.builder.icmp_signed("<", ahead, self.last_edge), ahead, self.last_edge)
        number = self.column(ahead)
        for table in tables:
            far = self.builder.bitcast(self._at(table, number), ir.IntType(8).as_pointer())
            for line in range(0, self.width * self.bytes, 64):
                at = self.builder.gep(far, [ir.Constant(self.i64, line)])
                self.builder.call(self._prefetch, [at, *(ir.Constant(self.i32, n) for n in (0, 3, 1))])
