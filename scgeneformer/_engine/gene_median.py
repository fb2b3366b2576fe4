"""Element-wise medians of the contextual embeddings of genes over the cells of each group, exact.

A median needs all values at once: one row of d numbers, and the group, for every token of the genes asked for. They are
counted beforehand, so that each gene gets a stretch of rows of its own, in memory or, where all exceed the budget, in a
temporary file, from which gene by gene is read back whole.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scanpy import logging as logg

from scgeneformer._engine.gene_sums import tokens_of_genes
from scgeneformer._engine.packing import to_device
from scgeneformer._engine.run import run
from scgeneformer._engine.to_host import ToHost
from scgeneformer._engine.tokens import offsets_of
from scgeneformer._errors import DataError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import torch
    from transformers import BertModel

    from scgeneformer._engine.forward import Batch
    from scgeneformer._engine.run import Consumer
    from scgeneformer._engine.tokens import Tokens

MAX_BUFFER = 2**28  # bytes gathered before they are written to disk


@dataclass(frozen=True, eq=False)
class GeneMedians:
    """Medians of groups, (n_groups, n_genes, d), and of all together, (n_genes, d), float32 by layer; cells of each."""

    groups: dict[int, np.ndarray]
    every: dict[int, np.ndarray]
    n_cells: np.ndarray

    def of(self, layer: int, group: int | None = None) -> np.ndarray:
        """Median in one group or in all together, (n_genes, d) float32, NaN for genes that no cell contains."""
        return self.every[layer] if group is None else self.groups[layer][group]


def gene_medians(
    blocks: Iterable[tuple[int, Tokens]],
    berts: list[BertModel],
    layers: list[int],
    tokens_per_batch: int,
    group_of_cell: np.ndarray,
    n_groups: int,
    slot_of_token: np.ndarray,
    n_slots: int,
    *,
    n_of_slot: np.ndarray,
    max_bytes: float,
    beside: Sequence[Consumer] | None = None,
    advance: Callable[[int], object] = lambda n: None,
) -> GeneMedians:
    """Medians of the contextual embeddings of genes over the cells of each group, in one pass.

    Parameters
    ----------
    blocks, berts, layers, tokens_per_batch, group_of_cell, n_groups, slot_of_token, n_slots, beside, advance
        As in :func:`gene_sums.gene_sums`.
    n_of_slot
        How many cells contain each gene, (n_slots,) int64 (:func:`count_tokens`).
    max_bytes
        Budget beyond which the values go to a temporary file.

    Raises
    ------
    DataError
        If they fit neither into the budget nor on the disk.
    """
    width, offsets = berts[0].config.hidden_size, offsets_of(n_of_slot)
    needed = int(offsets[-1]) * (width + 1) * 4 * len(layers)
    kind: type[_InMemory] = _InMemory
    if needed > max_bytes:
        _check_disk(needed, max_bytes)
        logg.info(f"    {needed / 1e9:.3g} GB of values for the medians exceed {max_bytes / 1e9:.3g} GB: kept on disk")
        kind = _OnDisk
    shape, buffer = (int(offsets[-1]), width + 1), int(min(MAX_BUFFER, max_bytes / len(layers)))
    with closing(_Stores({n: kind(shape, buffer) for n in layers})) as stores:
        free, lock = offsets[:-1].copy(), threading.Lock()
        consumers: list[list[Consumer]] = [
            [_Collector(stores.by_layer, group_of_cell, slot_of_token, free, lock)] for _ in berts
        ]
        for own, other in zip(consumers, beside or [], strict=False):
            own.append(other)
        run(blocks, berts, layers, tokens_per_batch, consumers, advance)
        found = GeneMedians(
            {n: np.full((n_groups, n_slots, width), np.nan, dtype=np.float32) for n in layers},
            {n: np.full((n_slots, width), np.nan, dtype=np.float32) for n in layers},
            np.zeros((n_groups, n_slots), dtype=np.int64),
        )
        for layer, store in stores.by_layer.items():
            for slot in np.flatnonzero(free > offsets[:-1]).tolist():  # cells of no group have left their rows free
                rows = store.get(int(offsets[slot]), int(free[slot]))
                _medians_of_gene(found, layer, slot, rows[:, :-1], rows[:, -1].astype(np.int64))
    return found


def count_tokens(blocks: Iterable[tuple[int, Tokens]], slot_of_token: np.ndarray, n_slots: int) -> np.ndarray:
    """How many cells contain each gene, (n_slots,) int64."""
    counts = np.zeros(n_slots + 1, dtype=np.int64)
    for _, tokens in blocks:
        counts += np.bincount(tokens.slots(slot_of_token) + 1, minlength=n_slots + 1)
    return counts[1:]


def _medians_of_gene(found: GeneMedians, layer: int, slot: int, states: np.ndarray, groups: np.ndarray) -> None:
    n_cells = np.bincount(groups, minlength=len(found.n_cells))
    found.n_cells[:, slot] = n_cells
    found.every[layer][slot] = np.median(states, axis=0)
    parts = np.split(states[np.argsort(groups, kind="stable")], np.cumsum(n_cells)[:-1])
    for group in np.flatnonzero(n_cells):
        found.groups[layer][group, slot] = np.median(parts[group], axis=0)


def _check_disk(needed: int, max_bytes: float) -> None:
    folder = tempfile.gettempdir()
    if (free := shutil.disk_usage(folder).free) < needed * 1.05:
        raise DataError(
            f"The exact median needs {needed / 1e9:.3g} GB of values: more than max_memory_gb={max_bytes / 1e9:.3g} "
            f"and than the {free / 1e9:.3g} GB free in {folder}. Name the genes (genes=[...]), take a sample of the "
            "cells (sample=...), take agg='mean', or set TMPDIR to a larger disk."
        )


class _Collector(ToHost):
    """Consumer that puts every state into the stretch of its gene."""

    def __init__(
        self,
        stores: dict[int, _InMemory],
        group_of_cell: np.ndarray,
        slot_of_token: np.ndarray,
        free: np.ndarray,
        lock: threading.Lock,
    ) -> None:
        super().__init__()
        self.stores, self.group_of_cell, self.slot_of_token = stores, group_of_cell, slot_of_token
        self.free, self.lock = free, lock  # next free row of each gene, shared by the devices

    def select(self, batch: Batch) -> tuple[tuple[np.ndarray, np.ndarray], dict[int, torch.Tensor]]:
        """The states of the genes, with slot and group of each."""
        kept, group, slot = tokens_of_genes(batch, self.group_of_cell, self.slot_of_token)
        order = np.argsort(slot, kind="stable")
        rows = to_device(kept[order], batch.packed.ids.device)
        return (slot[order], group[order]), {n: batch.states[n][rows].float() for n in self.stores}

    def store(self, place: tuple[np.ndarray, np.ndarray], rows: dict[int, np.ndarray]) -> None:
        """Put them behind those of the same gene."""
        slot, group = place
        genes, first, n = np.unique(slot, return_index=True, return_counts=True)
        with self.lock:
            at = np.repeat(self.free[genes] - first, n) + np.arange(len(slot))
            self.free[genes] += n
            for layer, values in rows.items():
                self.stores[layer].put(at, np.column_stack([values, group.astype(np.float32)]))


class _Stores:
    """The rows of all layers, closed together."""

    def __init__(self, by_layer: dict[int, _InMemory]) -> None:
        self.by_layer = by_layer

    def close(self) -> None:
        for store in self.by_layer.values():
            store.close()


class _InMemory:
    """Rows of float32, written in any order, read by stretches."""

    def __init__(self, shape: tuple[int, int], buffer: int) -> None:
        self.rows = np.empty(shape, dtype=np.float32)

    def put(self, at: np.ndarray, rows: np.ndarray) -> None:
        """Write rows."""
        self.rows[at] = rows

    def get(self, start: int, stop: int) -> np.ndarray:
        """Read rows."""
        return self.rows[start:stop]

    def close(self) -> None:
        """Give the memory back."""
        self.rows = np.empty((0, 0), dtype=np.float32)


class _OnDisk(_InMemory):
    """The same in a temporary file, written in blocks that are sorted by place."""

    def __init__(self, shape: tuple[int, int], buffer: int) -> None:
        self.width, self.buffer = shape[1], buffer
        self.file = tempfile.TemporaryFile(prefix="scgeneformer-")  # noqa: SIM115  closed by `close`
        self.waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self.n_bytes = 0

    def put(self, at: np.ndarray, rows: np.ndarray) -> None:
        """Write rows, once enough of them are there."""
        self.waiting.append((at, rows))
        self.n_bytes += rows.nbytes
        if self.n_bytes > self.buffer:
            self._flush()

    def get(self, start: int, stop: int) -> np.ndarray:
        """Read rows."""
        self._flush()
        self.file.seek(start * self.width * 4)
        read = self.file.read((stop - start) * self.width * 4)
        return np.frombuffer(read, dtype=np.float32).reshape(stop - start, self.width)

    def close(self) -> None:
        """Remove the file."""
        self.file.close()

    def _flush(self) -> None:
        if not self.waiting:
            return
        at, rows = (np.concatenate(parts) for parts in zip(*self.waiting, strict=True))
        self.waiting, self.n_bytes = [], 0
        order = np.argsort(at)
        at, rows = at[order], rows[order]
        ends = np.flatnonzero(np.diff(at) != 1) + 1
        for start, stop in zip([0, *ends], [*ends, len(at)], strict=True):
            self.file.seek(int(at[start]) * self.width * 4)
            self.file.write(rows[start:stop].data)
