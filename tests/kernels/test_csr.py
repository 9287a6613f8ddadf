import numpy as np
import pytest
from scipy.sparse import coo_array

from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.kernels.spmm import spmm


def case(seed):
    """Distinct pairs in random order over a shape with empty rows and columns, with weights."""
    rng = np.random.default_rng(seed)
    shape = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    keys = rng.permutation(shape[0] * shape[1])[: int(rng.integers(0, 150))]
    return keys // shape[1], keys % shape[1], shape, rng.random(keys.size)


def same(csr, rows, cols, shape, data):
    order = np.lexsort((cols, rows))
    assert (csr.n_rows, csr.n_cols) == shape
    assert csr.indptr.tolist() == [0, *np.cumsum(np.bincount(rows, minlength=shape[0])).tolist()]
    assert (csr.indices == cols[order]).all()
    assert (csr.data == data[order].astype(np.float32)).all()
    assert [a.dtype for a in (csr.indptr, csr.indices, csr.data)] == [np.int64, np.int32, np.float32]


@pytest.mark.parametrize("seed", range(20))
def test_pairs_and_their_transpose_are_what_a_stable_sort_makes_of_them(seed):
    rows, cols, shape, data = case(seed)
    csr = Csr.from_pairs(rows, cols, shape, data)
    same(csr, rows, cols, shape, data)
    same(csr.transpose(), cols, rows, shape[::-1], data)
    same(Csr.from_pairs(rows.astype(np.int32), cols.astype(np.int32), shape), rows, cols, shape, np.ones(rows.size))
    sorted_ = csr.rows(), csr.indices
    same(Csr.from_pairs(*sorted_, shape, csr.data), rows, cols, shape, data)
    oracle = coo_array((data.astype(np.float32), (rows, cols)), shape=shape).toarray()
    assert (coo_array((csr.data, (csr.rows(), csr.indices)), shape=shape).toarray() == oracle).all()


def test_a_row_alone_and_no_row_at_all():
    one = Csr.from_pairs(np.array([0, 0]), np.array([3, 1]), (1, 4), np.array([5.0, 7.0]))
    assert (one.indptr.tolist(), one.indices.tolist(), one.data.tolist()) == ([0, 2], [1, 3], [7, 5])
    none = Csr.from_pairs(np.zeros(0, int), np.zeros(0, int), (0, 4))
    assert (none.n_rows, none.nnz, none.transpose().indptr.tolist()) == (0, 0, [0] * 5)


@pytest.mark.parametrize(("rows", "cols"), [([2, 0, 2, 2, 0], [1, 3, 1, 1, 3]), ([0, 0, 2, 2, 2], [3, 3, 1, 1, 1])])
def test_pairs_that_are_there_twice_are_refused_and_counted(rows, cols):
    """Sorted or not."""
    with pytest.raises(ValueError, match="3 duplicate"):
        Csr.from_pairs(np.array(rows), np.array(cols), (3, 4))


@pytest.mark.parametrize(("row", "col"), [(-1, 0), (2, 0), (0, -1), (0, 3)])
def test_pairs_outside_the_shape_are_refused(row, col):
    """A compiled loop would write beside its arrays."""
    with pytest.raises(ValueError, match="matrix of 2 x 3"):
        Csr.from_pairs(np.array([0, row]), np.array([1, col]), (2, 3))


def test_which_pairs_are_stored():
    rows, cols, shape, data = case(3)
    csr = Csr.from_pairs(rows, cols, shape, data)
    there = np.zeros(shape, bool)
    there[rows, cols] = True
    asked = np.indices(shape).reshape(2, -1).astype(np.int32)
    assert (csr.contains_pairs(*asked).reshape(shape) == there).all()
    assert 0 < there.sum() < there.size


def test_columns_of_one_array_are_laid_out_anew():
    """Compiled code walks a column as if its numbers stood side by side."""
    pairs = np.array([[0, 0], [0, 3], [1, 1], [2, 2], [2, 4], [3, 0]], np.int32)
    csr = Csr.from_pairs(pairs[:, 0], pairs[:, 1], (4, 5))
    dense = np.zeros((4, 5), np.float32)
    dense[pairs[:, 0], pairs[:, 1]] = 1
    table, out = np.eye(5, 16, dtype=np.float32), np.empty((4, 16), np.float32)
    spmm(csr, table, out)
    assert (out[:, :5] == dense).all()
    relation = Relation.of("r", "a", "b", pairs[:, 0], pairs[:, 1])
    spmm(relation.csr(4, 5), table, out)
    assert (out[:, :5] == dense).all()
    apart = Csr(csr.indptr, pairs[:, 1], csr.data, 5)
    with pytest.raises(ValueError, match="matrix must be contiguous"):
        spmm(apart, table, out)


def test_rows_beyond_int32_are_refused():
    with pytest.raises(ValueError, match="2\\^31"):
        Relation.of("r", "a", "b", np.array([0, 2**31]), np.array([0, 0]))
