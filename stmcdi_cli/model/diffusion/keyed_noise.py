"""Random numbers that are functions of their key, (seed, spot, sample, stream, dimension).

Each number is a hash of its key, and no generator keeps a state between numbers. So the draws of a spot do not depend
on its batch, on the order of batches or on threads.
"""

from collections.abc import Iterator

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_KIND_NORMAL, _KIND_UNIFORM = 1, 2
_CHUNK = 1 << 13  # hashes at a time: the buffers of one chunk fit the second-level cache


def _mix(z: np.ndarray, scratch: np.ndarray | None = None) -> np.ndarray:
    """Mix uint64 in place: a bijection in which each input bit affects every output bit (finaliser of splitmix64)."""
    scratch = np.empty_like(z) if scratch is None else scratch
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        np.right_shift(z, np.uint64(shift), out=scratch)
        np.bitwise_xor(z, scratch, out=z)
        np.multiply(z, np.uint64(factor), out=z)
    np.right_shift(z, np.uint64(31), out=scratch)
    return np.bitwise_xor(z, scratch, out=z)


def _absorb(state: np.ndarray, word: np.ndarray) -> np.ndarray:
    """Add one word of the key to a hash state, with broadcasting."""
    return _mix((state ^ _mix(word * _GOLDEN + _GOLDEN)) * _GOLDEN + _GOLDEN)


def _row_keys(seed: int, spots: np.ndarray, samples: np.ndarray, stream: int, kind: int) -> np.ndarray:
    """One uint64 per (sample, spot), flattened."""
    with np.errstate(over="ignore"):
        state = np.zeros((1, 1), dtype=np.uint64)
        for word in (kind, seed, stream):
            state = _absorb(state, np.array([[word % 2**64]], dtype=np.uint64))
        state = _absorb(state, np.asarray(spots, dtype=np.int64).astype(np.uint64)[None, :])
        state = _absorb(state, np.asarray(samples, dtype=np.int64).astype(np.uint64)[:, None])
    return state.ravel()


def _hashes(row_keys: np.ndarray, n: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Yield (row slice, column slice, uint64 hashes) over rows x ceil(n / 2): each hash serves two dimensions."""
    width = (n + 1) // 2
    dimensions = np.arange(1, width + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        dimension_keys = _mix(dimensions * _GOLDEN)
    n_columns = min(width, _CHUNK)
    n_rows = max(1, _CHUNK // n_columns)
    buffer, scratch = np.empty((2, n_rows * n_columns), dtype=np.uint64)
    for row in range(0, len(row_keys), n_rows):
        rows = slice(row, min(row + n_rows, len(row_keys)))
        for column in range(0, width, n_columns):
            columns = slice(column, min(column + n_columns, width))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            z = buffer[: shape[0] * shape[1]].reshape(shape)
            np.add(row_keys[rows, None], dimension_keys[None, columns], out=z)
            yield rows, columns, _mix(z, scratch[: z.size].reshape(shape))


def normal(seed: int, spots: np.ndarray, samples: np.ndarray, stream: int, n: int) -> np.ndarray:
    """Standard normal numbers by their keys.

    Parameters
    ----------
    seed
        Seed of the run.
    spots
        int64 [B], the spots' positions in the tissue.
    samples
        int64 [S], the numbers of the samples.
    stream
        Purpose of the numbers, such as the step of a sampler.
    n
        Number of dimensions; a longer row begins with the numbers of a shorter one.

    Returns
    -------
    float32 [S, B, n].
    """
    out = np.empty((len(samples) * len(spots), n), dtype=np.float32)
    radius_buffer, angle_buffer, part_buffer = np.empty((3, _CHUNK), dtype=np.float32)
    for rows, columns, z in _hashes(_row_keys(seed, spots, samples, stream, _KIND_NORMAL), n):
        # Box-Muller on the two halves of each hash, read as signed integers because those convert to float in one
        # instruction: the radius from a number in (0, 1], the angle from one in [-pi, pi).
        halves = z.view(np.int32)
        radius, angle, part = (b[: z.size].reshape(z.shape) for b in (radius_buffer, angle_buffer, part_buffer))
        np.multiply(halves[:, 0::2], np.float32(2**-31), out=radius)
        np.abs(radius, out=radius)
        np.maximum(radius, np.float32(2**-33), out=radius)
        np.log(radius, out=radius)
        np.multiply(radius, np.float32(-2), out=radius)
        np.sqrt(radius, out=radius)
        np.multiply(halves[:, 1::2], np.float32(np.pi * 2**-31), out=angle)
        np.cos(angle, out=part)
        target = out[rows, 2 * columns.start : 2 * columns.stop]
        np.multiply(radius, part, out=target[:, 0::2])
        np.sin(angle, out=part)
        n_odd = target.shape[1] // 2
        np.multiply(radius[:, :n_odd], part[:, :n_odd], out=target[:, 1::2])
    return out.reshape(len(samples), len(spots), n)


def uniform(seed: int, spots: np.ndarray, samples: np.ndarray, stream: int, n: int) -> np.ndarray:
    """Numbers uniform on [0, 1) by their keys; parameters and shape as for `normal`, and independent of it."""
    out = np.empty((len(samples) * len(spots), n), dtype=np.float32)
    for rows, columns, z in _hashes(_row_keys(seed, spots, samples, stream, _KIND_UNIFORM), n):
        np.right_shift(z, np.uint64(8), out=z)  # the low half keeps 24 bits, the high half is masked below
        halves = z.view(np.uint32) & np.uint32(0xFFFFFF)
        target = out[rows, 2 * columns.start : 2 * columns.stop]
        np.multiply(halves[:, : target.shape[1]].astype(np.int32), np.float32(2**-24), out=target)
    return out.reshape(len(samples), len(spots), n)


def mirrored(uniform: np.ndarray) -> np.ndarray:
    """1 - u for `uniform` numbers, less the smallest step: on [0, 1) too, because at 1 every quantile is infinite."""
    return np.float32(1 - 2**-24) - uniform
