"""Work on the rows of dask arrays chunk by chunk, wherever dask computes them: threads, processes, a cluster."""

from __future__ import annotations

from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgeneformer._errors import GeneformerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dask.array as da
    from dask.delayed import Delayed

MERGED_AT_ONCE = 8


def is_dask(matrix: Any) -> bool:
    """Whether a matrix is a dask array."""
    return hasattr(matrix, "to_delayed")


def client_in_scope() -> Any:
    """The `distributed.Client` that dask would compute with now; None where it would use threads or processes."""
    from dask.base import get_scheduler

    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler_info") else None


class Part(NamedTuple):
    """The task of one chunk, and the rows of that."""

    size: int
    task: Delayed


class RowChunks:
    """The rows of one or several matrices, cut where the first of them, a dask array, is cut.

    A function that is mapped over the chunks is called as ``function(shared, first, matrices, *rows)`` with

    shared
        what all chunks share, sent to each worker once,
    first
        number of the first row of the chunk,
    matrices
        its rows of each matrix, as stored,
    rows
        and of each array that was given besides.

    Parameters
    ----------
    matrices
        All with the same number of rows; those behind the first may be in memory.
    """

    def __init__(self, matrices: Sequence[Any]) -> None:
        self.sizes: tuple[int, ...] = tuple(int(n) for n in matrices[0].chunks[0])
        self.firsts = list(accumulate(self.sizes, initial=0))[:-1]
        self._columns = [_whole_rows(matrix, self.sizes).to_delayed().ravel().tolist() for matrix in matrices]

    def map(
        self,
        function: Callable[..., Any],
        shared: Any,
        *rows: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> list[Part]:
        """One task for each chunk, in order.

        Parameters
        ----------
        function, shared, rows
            As above; the function is one of a module.
        chosen
            Rows that count, (n_rows,) bool: chunks without any have no task, but one task there is always.
        """
        import dask

        task = dask.delayed(_on_chunk, pure=False)
        common = dask.delayed((function, shared), traverse=False)
        parts = []
        for first, size, *chunk in zip(self.firsts, self.sizes, *self._columns, strict=True):
            some = slice(first, first + size)
            if chosen is None or chosen[some].any():
                parts.append(Part(size, task(common, first, size, [array[some] for array in rows], *chunk)))
        return parts or self.map(function, shared, *rows)[:1]

    def stack(self, parts: list[Part], take: Callable[..., np.ndarray], shape: tuple[int, ...], dtype: Any) -> da.Array:
        """Dask array of ``take(part)`` of every chunk, whose rows are those of the chunk.

        Parameters
        ----------
        parts
            Of :meth:`map`, one of each chunk.
        take
            Finds the rows in the result of a task.
        shape
            Of a row.
        dtype
            Of the array.
        """
        import dask
        import dask.array as da

        of_part, meta = dask.delayed(take), np.empty((0,) * (1 + len(shape)), dtype=dtype)
        blocks = [da.from_delayed(of_part(part.task), (part.size, *shape), dtype=dtype, meta=meta) for part in parts]
        return da.concatenate(blocks)


def compute(
    parts: list[Part], advance: Callable[[int], object], merge: Callable[[list[Any]], Any] | None = None
) -> list[Any]:
    """Results of all parts: from the client in scope, otherwise as dask is set to compute, in threads by default.

    Parameters
    ----------
    parts
        Of :meth:`RowChunks.map`.
    advance
        Called with the rows of every part that is done.
    merge
        Combines the results of some consecutive parts. Where it is given they are merged as a tree, where they lie, and
        the list holds what all of them give. It must not change them: a cluster may need them again.
    """
    import dask

    wanted = [part.task for part in parts]
    done = [dask.delayed(_size_of, pure=False)(part.task, part.size) for part in parts]
    while merge is not None and len(wanted) > 1:
        some = [wanted[i : i + MERGED_AT_ONCE] for i in range(0, len(wanted), MERGED_AT_ONCE)]
        wanted = [dask.delayed(merge, pure=False)(each) for each in some]
    if (client := client_in_scope()) is None:
        with _told({one.key for one in done}, advance):
            return list(dask.compute(*wanted, *done)[: len(wanted)])
    from distributed import as_completed

    futures = client.compute([*wanted, *done])
    try:
        for _, size in as_completed(futures[len(wanted) :], with_results=True):
            advance(size)
        return list(client.gather(futures[: len(wanted)]))
    finally:
        client.cancel(futures)


@contextmanager
def _told(keys: set[Any], advance: Callable[[int], object]) -> Iterator[None]:
    """Let dask, where it computes in this process, call `advance` with the results of some tasks."""
    from dask.callbacks import Callback

    def after(key: Any, result: Any, *rest: Any) -> None:
        if key in keys:
            advance(result)

    with Callback(posttask=after):
        yield


def _size_of(result: Any, size: int) -> int:
    return size


def _whole_rows(matrix: Any, sizes: tuple[int, ...]) -> Any:
    """The matrix as a dask array of chunks of so many whole rows."""
    import dask.array as da

    if not is_dask(matrix):
        matrix = da.from_array(matrix, chunks=(sizes, -1), asarray=False)
    return matrix.rechunk((sizes, -1))


def _on_chunk(
    common: tuple[Callable[..., Any], Any], first: int, size: int, rows: list[np.ndarray], *matrices: Any
) -> Any:
    """What every task runs; errors say in which rows."""
    function, shared = common
    try:
        return function(shared, first, matrices, *rows)
    except Exception as error:
        where = f"In rows {first:,} to {first + size - 1:,}"
        if isinstance(error, GeneformerError):
            raise type(error)(f"{where}: {error}") from error
        raise GeneformerError(f"{where}: {type(error).__name__}: {error}") from error
