"""What every function that runs a model over the cells of an AnnData begins with."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata.disk.parts import open_store
from scgeneformer._adata.params import result_params
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._errors import DataError
from scgeneformer._progress import progress
from scgeneformer.settings import settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from transformers import BertModel

    from scgeneformer._adata.disk.run_store import RunStore
    from scgeneformer._adata.previous import PreviousLayer
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer._engine.tokens import Tokens
    from scgeneformer.models import Model, ModelLike


@dataclass(frozen=True, eq=False)
class Session:
    """A model on its devices, the cells as it reads them, and the hidden layers that are asked for.

    Parameters
    ----------
    model
        The model on the first device.
    berts
        Its encoder, once for each device.
    source
        Tokens of the cells.
    layers
        Hidden layers, counted from 0, each once.
    tokens_per_batch
        Tokens in one forward pass.
    dtype
        As which numbers the model computes, such as "float32" or "tf32".
    device, budget
        The devices and the tokens in one forward pass that were asked for.
    first
        Number of the first cell in the data set, where these are the cells of a chunk of it; else None. Over a chunk
        nothing is said and shown.
    """

    model: Model
    berts: list[BertModel]
    source: CellTokens
    layers: list[int]
    tokens_per_batch: int
    dtype: str
    device: str | Sequence[str] = "auto"
    budget: int | None = None
    first: int | None = None

    @contextmanager
    def running(
        self, doing: str, n_cells: int | None = None
    ) -> Iterator[tuple[np.ndarray, Iterable[tuple[int, Tokens]], Callable[[int], object]]]:
        """Say how long it will take, and show a progress bar, over all cells or `n_cells` of them.

        Gives an array (n_obs,) int32 that holds the tokens of each cell afterwards, the blocks, and the function that
        advances the bar.
        """
        from scgeneformer._engine.cost import announce
        from scgeneformer._engine.device import matmul_precision

        n_cells = self.source.counts.n_obs if n_cells is None else n_cells
        if self.first is not None:
            with matmul_precision(self.dtype):
                yield *self.source.counted(), lambda n: None
            return
        announce(self.berts[0], max(self.layers), self.source.sample_lengths(), n_cells, name=self.model.name)
        n_tokens, blocks = self.source.counted()
        with progress(n_cells, doing) as advance, matmul_precision(self.dtype):
            yield n_tokens, blocks, advance

    def params(self, **more: Any) -> dict[str, Any]:
        """What a result depends on, to be stored beside it."""
        return result_params(self.model, self.source, dtype=self.dtype, **more)

    @contextmanager
    def kept_in(
        self, out: str | Path | None, call: str, params: dict[str, Any], **choices: int
    ) -> Iterator[tuple[Session, RunStore | None]]:
        """Give the session with the batches of the run that made the store, and the store (:func:`open_store`)."""
        choices["tokens_per_batch"] = self.tokens_per_batch
        with open_store(out, call, self.source.counts.adata, params, **choices) as store:
            yield (self if store is None else replace(self, tokens_per_batch=store.choices["tokens_per_batch"])), store


def open_session(
    adata: AnnData,
    model: ModelLike | None,
    layer: int | Sequence[int],
    *,
    counts_layer: str | None,
    use_raw: bool | None,
    gene_ids: str | None,
    device: str | Sequence[str],
    dtype: str,
    tokens_per_batch: int | None,
    previous_layer: PreviousLayer = False,
) -> Session:
    """Load the model, find counts, genes and layers; everything is checked, nothing is run.

    Whoever can use models that read two time points hands on their `previous_layer`; for all others they are refused.
    """
    from scgeneformer._engine.cost import choose_tokens_per_batch
    from scgeneformer._engine.device import TF32, resolve_devices
    from scgeneformer._engine.encoder import resolve_layer

    device = settings.device if device == "auto" else device
    devices = resolve_devices(device)
    everywhere = [models.load(model, device=str(one), dtype=dtype) for one in devices]
    loaded = everywhere[0]
    asked = [layer] if isinstance(layer, str | int | np.integer | float | None) else list(layer)
    layers = list(dict.fromkeys(resolve_layer(n, loaded.n_blocks) for n in asked))
    if not layers:
        raise DataError("layer=[] names no layer. Name at least one, such as layer=-2.")
    where: dict[str, Any] = {"counts_layer": counts_layer, "use_raw": use_raw, "gene_ids": gene_ids}
    source = open_tokens(adata, loaded.vocabulary, previous_layer=previous_layer, **where)
    budget = choose_tokens_per_batch(loaded.bert, tokens_per_batch)
    logg.debug(f"    {loaded} on {', '.join(map(str, devices))}, {budget} tokens per batch")
    wanted = settings.dtype if dtype == "auto" else dtype
    numbers = TF32 if wanted == TF32 else str(loaded.dtype).removeprefix("torch.")
    named = settings.tokens_per_batch if tokens_per_batch is None else tokens_per_batch
    return Session(loaded, [each.bert for each in everywhere], source, layers, budget, numbers, device, named)
