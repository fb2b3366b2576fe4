"""Work on the rows of dask arrays chunk by chunk, wherever dask computes them: threads, processes, a cluster."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgeneformer._errors import GeneformerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import dask.array as da
    from dask.highlevelgraph import HighLevelGraph

MERGED_AT_ONCE = 8


def is_dask(matrix: Any) -> bool:
    """Whether a matrix is a dask array."""
    return hasattr(matrix, "to_delayed")


def client_in_scope() -> Any:
    """The `distributed.Client` that dask would compute with now; None where it would use threads or processes."""
    from dask.base import get_scheduler

    client = getattr(get_scheduler(), "__self__", None)
    return client if hasattr(client, "scheduler_info") else None


class Parts(NamedTuple):
    """Tasks of chunks, one layer of a graph, so that there may be very many.

    Parameters
    ----------
    graph
        Theirs, and that of all they depend on.
    layer
        The name of the layer.
    sizes
        Rows of the chunk of each task, by its key; in order.
    """

    graph: HighLevelGraph
    layer: str
    sizes: dict[tuple[str, int], int]

    def followed_by(self, tasks: dict[Any, Any], layer: str) -> HighLevelGraph:
        """The graph with one more layer, which depends on that of the parts."""
        from dask.highlevelgraph import HighLevelGraph

        layers: dict[str, Any] = {**self.graph.layers, layer: tasks}
        return HighLevelGraph(layers, {**self.graph.dependencies, layer: {self.layer}})

    @property
    def n_rows(self) -> int:
        """Rows of all of these chunks."""
        return sum(self.sizes.values())


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
        self._matrices = [_whole_rows(matrix, self.sizes) for matrix in matrices]

    def map(
        self,
        function: Callable[..., Any],
        shared: Any,
        *rows: np.ndarray,
        chosen: np.ndarray | None = None,
    ) -> Parts:
        """One task for each chunk.

        Parameters
        ----------
        function, shared, rows
            As above; the function is one of a module.
        chosen
            Rows that count, (n_rows,) bool: chunks without any have no task, but one task there is always.
        """
        import dask
        from dask.highlevelgraph import HighLevelGraph

        common = dask.delayed((function, shared), traverse=False)
        tasks: dict[Any, Any] = {}
        layer, sizes = _name("chunk"), {}
        for i, (first, size) in enumerate(zip(self.firsts, self.sizes, strict=True)):
            some = slice(first, first + size)
            if chosen is None or chosen[some].any():
                chunk = [(matrix.name, i, 0) for matrix in self._matrices]
                tasks[layer, i] = (_on_chunk, common.key, first, size, [array[some] for array in rows], *chunk)
                sizes[layer, i] = size
        if not tasks:
            return self.map(function, shared, *rows, chosen=np.arange(sum(self.sizes)) == 0)
        return Parts(HighLevelGraph.from_collections(layer, tasks, [common, *self._matrices]), layer, sizes)

    def stack(self, parts: Parts, take: Callable[[Any], np.ndarray], shape: tuple[int, ...], dtype: Any) -> da.Array:
        """Dask array of ``take(result)`` of every chunk, whose rows are those of the chunk.

        Parameters
        ----------
        parts
            Of :meth:`map`, for all chunks.
        take
            Finds the rows in the result of a task.
        shape
            Of a row.
        dtype
            Of the array.
        """
        import dask.array as da

        layer, only = _name("rows"), (0,) * len(shape)
        tasks = {(layer, i, *only): (take, key) for i, key in enumerate(parts.sizes)}
        chunks, meta = (self.sizes, *((n,) for n in shape)), np.empty((0, *only), dtype=dtype)
        return da.Array(parts.followed_by(tasks, layer), layer, chunks=chunks, meta=meta)


def compute(
    parts: Parts, advance: Callable[[int], object], merge: Callable[[list[Any]], Any] | None = None
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
    from dask.delayed import Delayed

    layer, wanted = _name("merge"), list(parts.sizes)
    tasks: dict[Any, Any] = {}
    while merge is not None and len(wanted) > 1:
        some = [wanted[i : i + MERGED_AT_ONCE] for i in range(0, len(wanted), MERGED_AT_ONCE)]
        wanted = [(layer, len(tasks) + i) for i in range(len(some))]
        tasks |= {key: (merge, each) for key, each in zip(wanted, some, strict=True)}
    if (client := client_in_scope()) is None:
        tasks[layer, "all"] = (list, wanted)
        with _told(parts.sizes, advance):
            return Delayed((layer, "all"), parts.followed_by(tasks, layer), layer=layer).compute()
    from distributed import as_completed

    done = [(layer, "rows", i) for i in range(len(parts.sizes))]
    tasks |= {key: (_size_of, *part) for key, part in zip(done, parts.sizes.items(), strict=True)}
    futures = client.get(parts.followed_by(tasks, layer), [*wanted, *done], sync=False)
    try:
        for _, size in as_completed(futures[len(wanted) :], with_results=True):
            advance(size)
        return list(client.gather(futures[: len(wanted)]))
    finally:
        client.cancel(futures)


@contextmanager
def _told(sizes: dict[tuple[str, int], int], advance: Callable[[int], object]) -> Iterator[None]:
    """Let dask, where it computes in this process, call `advance` when one of some tasks is done."""
    from dask.callbacks import Callback

    def after(key: Any, *rest: Any) -> None:
        if key in sizes:
            advance(sizes[key])

    with Callback(posttask=after):
        yield


def _name(kind: str) -> str:
    return f"geneformer-{kind}-{uuid.uuid4().hex}"


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
