"""Expectations of the sparse canary by SciPy, made once: python sparse_expectations.py > ../../crates/lathe/tests/canaries/sparse.json

Small integers as values, so that every sum is exact in any order. Matrices in compressed rows, sorted; empty rows included.
"""

import json

import numpy as np
import scipy
import scipy.sparse as sp


def matrix(rng, rows, columns, density):
    dense = rng.integers(-4, 5, (rows, columns)) * (rng.random((rows, columns)) < density)
    dense[rows // 2] = 0
    return sp.csr_matrix(dense.astype(np.float32))


def csr(m):
    m = sp.csr_matrix(m)
    m.sort_indices()
    return {
        "shape": list(m.shape),
        "ptr": m.indptr.tolist(),
        "idx": m.indices.tolist(),
        "val": m.data.astype(float).tolist(),
    }


def case(seed, rows, columns, width, density):
    rng = np.random.default_rng(seed)
    a, b = matrix(rng, rows, columns, density), matrix(rng, rows, columns, density)
    x = rng.integers(-4, 5, (columns, width)).astype(np.float32)
    y = rng.integers(-4, 5, (rows, width)).astype(np.float32)
    z = rng.integers(-4, 5, (width, columns)).astype(np.float32)
    sampled = a.copy()
    product = y @ z
    sampled.data = sampled.data * product[a.nonzero()] if sampled.nnz else sampled.data
    both = a.astype(bool).multiply(b.astype(bool)).tocsr()
    either = (a.astype(bool) + b.astype(bool)).tocsr()
    return {
        "a": csr(a),
        "b": csr(b),
        "x": x.ravel().tolist(),
        "y": y.ravel().tolist(),
        "z": z.ravel().tolist(),
        "width": width,
        # A x, dense
        "spmm": (a @ x).ravel().tolist(),
        # A .* (y z) at the places of A
        "sddmm": sampled.data.astype(float).tolist(),
        # A .* B and A + B: their places, and their values as dense matrices
        "product_places": {"ptr": both.indptr.tolist(), "idx": both.sorted_indices().indices.tolist()},
        "product": a.multiply(b).toarray().ravel().tolist(),
        "sum_places": {"ptr": either.indptr.tolist(), "idx": either.sorted_indices().indices.tolist()},
        "sum": (a + b).toarray().ravel().tolist(),
    }


cases = [case(1, 6, 9, 4, 0.3), case(2, 17, 5, 3, 0.5), case(3, 3, 40, 1, 0.1), case(4, 4, 4, 2, 0.0)]
print(json.dumps({"scipy": scipy.__version__, "cases": cases}))
