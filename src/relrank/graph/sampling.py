"""Training edges in random order and negatives, seeded and compiled.

Random numbers inside the kernels are hashes of (seed, position) — splitmix64, Steele et al. 2014 — so they do not
depend on how many threads draw them.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from relrank.csr import Csr, Int32
from relrank.errors import InputError


@numba.njit(inline="always", cache=True)
def _hash(x):  # type: ignore[no-untyped-def]
    x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@numba.njit(parallel=True, nogil=True, cache=True)
def _negatives(indptr, indices, n_items, users, seed, out):  # type: ignore[no-untyped-def]
    per_user = out.shape[1]
    for b in numba.prange(users.size):
        first, last = indptr[users[b]], indptr[users[b] + 1]
        for k in range(per_user):
            state = _hash(seed ^ _hash(np.uint64(b * per_user + k)))
            while True:
                state = _hash(state)
                item = np.int64((state >> np.uint64(32)) * np.uint64(n_items) >> np.uint64(32))
                low, high = first, last
                while low < high:
                    middle = (low + high) // 2
                    if indices[middle] < item:
                        low = middle + 1
                    else:
                        high = middle
                if low == last or indices[low] != item:
                    break
            out[b, k] = item


@numba.njit(parallel=True, nogil=True, cache=True)
def _shared_positives(indptr, indices, users, place, out):  # type: ignore[no-untyped-def]
    for b in numba.prange(users.size):
        for e in range(indptr[users[b]], indptr[users[b] + 1]):
            at = place[indices[e]]
            if at >= 0:
                out[b, at] = True


def check_negatives_exist(positives: Csr, users: npt.NDArray[np.int64] | None = None) -> None:
    """Uniform negatives need an item that the user does not have; all users are checked, or those given.

    Raises:
        InputError: a user has every item.
    """
    users = np.arange(positives.n_rows) if users is None else users
    full = positives.indptr[users + 1] - positives.indptr[users] == positives.n_cols
    if full.any():
        raise InputError(
            "user has every item, so there is no negative", where=f"user row {users[full][0]}",
            expected=f"fewer than {positives.n_cols} training items", found=f"{positives.n_cols}",
        )  # fmt: skip


def negatives(positives: Csr, users: npt.NDArray[np.int64], per_user: int, seed: np.random.SeedSequence) -> Int32:
    """Items drawn uniformly among those the user does not have, int32 [len(users), per_user], with replacement.

    Args:
        positives: users by items.
        users: user rows.
        per_user: how many each.
        seed: same seed, same items.

    Raises:
        InputError: one of the users has every item.
    """
    check_negatives_exist(positives, users)
    out = np.empty((users.size, per_user), np.int32)
    word = seed.generate_state(1, np.uint64)[0]
    _negatives(positives.indptr, positives.indices, positives.n_cols, users, word, out)
    return out


def shared_negatives(
    positives: Csr, users: npt.NDArray[np.int64], n: int, seed: np.random.SeedSequence
) -> tuple[Int32, npt.NDArray[np.bool_]]:
    """Distinct items drawn uniformly for a whole batch, and where they are not negative.

    Returns:
        items: int32 [min(n, n_items)].
        is_positive: bool [len(users), len(items)], True where the item is one of the user's own.
    """
    n = min(n, positives.n_cols)
    items = np.random.default_rng(seed).choice(positives.n_cols, n, replace=False).astype(np.int32)
    place = np.full(positives.n_cols, -1, np.int32)
    place[items] = np.arange(n, dtype=np.int32)
    out = np.zeros((users.size, n), np.bool_)
    _shared_positives(positives.indptr, positives.indices, users, place, out)
    return items, out
