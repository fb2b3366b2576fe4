"""What training classifiers of cells and of genes, and pretraining, have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata.kind import check_target
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._adata.training.split import check_parts
from scgeneformer._errors import DataError
from scgeneformer._training.recipe import OF_PRETRAINING, check_use, find_recipe
from scgeneformer._training.splits import NONE
from scgeneformer.settings import settings

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch
    from anndata import AnnData

    from scgeneformer._adata.previous import PreviousLayer
    from scgeneformer._adata.tokens import CellTokens
    from scgeneformer._adata.training.corpus import DataSet
    from scgeneformer._adata.training.labels import Labels
    from scgeneformer._adata.training.split import Split
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.network import Network
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.run import Run
    from scgeneformer._training.task import Task
    from scgeneformer._training.trained import Trained
    from scgeneformer.models import Model, ModelLike


@dataclass(frozen=True, eq=False)
class Beginning:
    """What a training starts from; everything checked, nothing run.

    Parameters
    ----------
    model
        The pretrained model, float32 on the CPU.
    recipe
        Settings.
    vocabulary
        That of the trained model.
    sources
        The cells as the trained model will read them, of each data set; classifiers have one.
    folder
        Where the trained model will be.
    device
        Where to train.
    half
        "bf16" or "fp16" for mixed precision, or None.
    arguments
        Arguments of transformers' Trainer.
    seed
        Of everything random.
    """

    model: Model
    recipe: Recipe
    vocabulary: Vocabulary
    sources: Sequence[CellTokens | DataSet]
    folder: Path
    device: torch.device
    half: str | None
    arguments: dict[str, Any]
    seed: int

    @property
    def source(self) -> CellTokens:
        """The cells of the only data set."""
        return cast("CellTokens", self.sources[0])

    def run(self, task: Task) -> Run:
        """A training of `task` on any choice of cells."""
        from scgeneformer._training.run import Run

        n_tokens = self.vocabulary.n_tokens
        return Run(self.model.bert, self.recipe, task, n_tokens, self.seed, self.device, self.half, self.arguments)

    def request(self, **more: Any) -> dict[str, Any]:
        """All that the trained weights depend on."""
        facts = {"model": self.model.checksum, "recipe": self.recipe.to_dict(), "seed": self.seed, "half": self.half}
        return {**facts, **self.sources[0].params, "arguments": self.arguments, **more}


def begin(
    adata: AnnData,
    model: ModelLike | None,
    recipe: str | Recipe,
    changes: dict[str, Any],
    *,
    out: str | os.PathLike[str] | None,
    default_out: str,
    counts_layer: str | None,
    use_raw: bool | None,
    gene_ids: str | None,
    device: str,
    dtype: str,
    arguments: Mapping[str, Any] | None,
    overwrite: bool,
    seed: int,
    previous_layer: PreviousLayer = False,
) -> Beginning:
    """Load the model, find the cells, check recipe and directory; `previous_layer` is that of `open_tokens`."""
    from scgeneformer._engine.pooling import get_pooling
    from scgeneformer._engine.two_time_points import reads_two_times
    from scgeneformer._training.encoder import with_cls

    check_target(adata)
    chosen = find_recipe(recipe, changes, ("init", *OF_PRETRAINING))
    check_use(chosen, OF_PRETRAINING, "classifiers, but of gf.tl.pretrain")
    place = find_place(default_out if out is None else out, overwrite, device, dtype)
    loaded = models.load(model, device="cpu", dtype="float32")
    vocabulary = reads_two_times(loaded.vocabulary) if previous_layer else loaded.vocabulary
    vocabulary = with_cls(vocabulary) if chosen.add_cls else vocabulary
    vocabulary = limited(vocabulary, loaded, chosen)
    get_pooling(chosen.pooling, vocabulary)
    source = open_tokens(
        adata, vocabulary, counts_layer=counts_layer, use_raw=use_raw, gene_ids=gene_ids, previous_layer=previous_layer
    )
    return Beginning(loaded, chosen, vocabulary, [source], *place, read_arguments(arguments), seed)


def read_arguments(arguments: Mapping[str, Any] | None) -> dict[str, Any]:
    """Arguments of transformers as a dictionary."""
    if not isinstance(arguments, Mapping | None):
        raise DataError(f"arguments={arguments!r} must be a dictionary, such as {{'save_steps': 100}}.")
    return dict(arguments or {})


def find_place(
    out: str | os.PathLike[str], overwrite: bool, device: str, dtype: str
) -> tuple[Path, torch.device, str | None]:
    """Folder, device and mixed precision of a training; checked."""
    from scgeneformer._engine.device import resolve_device
    from scgeneformer._training.fit import mixed_precision

    folder = Path(out).expanduser()
    check_out(folder, overwrite)
    on = resolve_device(settings.device if device == "auto" else device)
    return folder, on, mixed_precision(settings.dtype if dtype == "auto" else dtype, on)


def limited(vocabulary: Vocabulary, model: Model, recipe: Recipe) -> Vocabulary:
    """The vocabulary with no more tokens per cell than the trained model has positions and the recipe allows.

    Raises
    ------
    DataError
        If positions are not places in a cell, and the model has too few of them.
    """
    n_positions = (recipe.config or {}).get("max_position_embeddings", model.bert.config.max_position_embeddings)
    largest, needed = recipe.max_tokens or vocabulary.input_size, vocabulary.encoding.n_positions
    if needed is None:
        largest = min(largest, n_positions)
    elif n_positions < needed:
        raise DataError(
            f"The encoding {vocabulary.encoding.name!r} needs {needed} positions, and the model has {n_positions}. "
            "Leave max_position_embeddings out of config=."
        )
    return replace(vocabulary, input_size=min(vocabulary.input_size, largest))


def check_out(folder: Path, overwrite: bool) -> None:
    """Refuse a directory in which the training would destroy something; one that was cut off there may go on."""
    from scgeneformer._training.unfinished import REQUEST
    from scgeneformer.models._save import check_target

    if not (folder / REQUEST).is_file():
        check_target(folder, overwrite)


def save(
    beginning: Beginning,
    network: Network,
    entries: dict[str, Any],
    *,
    metrics: dict[str, Any],
    card: str,
    record: dict[str, Any],
    kind: str = "fine_tuning",
) -> Trained:
    """Write the trained model into its directory, and forget the checkpoints.

    Parameters
    ----------
    beginning
        What the training started from.
    network
        The trained network.
    entries
        What `config.json` says of the head.
    metrics, card
        For `metrics.json` and the model card.
    record
        How it was trained, kept with the vocabulary.
    kind
        Under which name it is kept.
    """
    from scgeneformer._training.processes import is_first, wait_for_all
    from scgeneformer._training.trained import Trained
    from scgeneformer._training.unfinished import close_folder
    from scgeneformer.models._save_trained import save_trained

    base, vocabulary = beginning.model, beginning.vocabulary
    origin = {"base_model": base.name, "base_revision": base.revision, "base_checksum": base.checksum}
    history = {**vocabulary.record, kind: {**(origin if base.checksum else {}), **record}}
    if network.bert.config.vocab_size != vocabulary.n_tokens:
        raise DataError("The encoder and the vocabulary that belong together have different numbers of tokens.")
    if is_first():
        trained = replace(vocabulary, record=history)
        head = network.head.tensors()
        save_trained(beginning.folder, network.bert, head, trained, config=entries, metrics=metrics, card=card)
        close_folder(beginning.folder)
    wait_for_all()
    return Trained(beginning.folder, metrics)


def labelled_cells(
    adata: AnnData, beginning: Beginning, labels: list[Labels], parts: Split
) -> tuple[np.ndarray, TokenDataset]:
    """Rows of the cells with a label and a part, by the name of the cell, and their tokens and labels.

    Raises
    ------
    DataError
        If a class does not train, or a fold is empty, once cells in which the model knows no gene are left out.
    """
    from scgeneformer._training.dataset import IGNORED

    codes = np.stack([one.codes for one in labels], axis=1)
    chosen = (codes >= 0).any(axis=1) & (parts.parts >= 0)
    names = adata.obs_names.to_numpy(str)
    told, n_tokens = np.where(codes < 0, IGNORED, codes), beginning.vocabulary.n_tokens
    rows, cells = read_cells(beginning.source, n_tokens, names, chosen, told, "with a label")
    left = np.full(adata.n_obs, NONE)
    left[rows] = parts.parts[rows]
    check_parts(left, labels, parts.n_folds, " once cells without a count of a gene that the model knows are left out")
    return rows, cells


def read_cells(
    source: CellTokens | DataSet, n_tokens: int, names: np.ndarray, chosen: np.ndarray, labels: np.ndarray, which: str
) -> tuple[np.ndarray, TokenDataset]:
    """Rows of the chosen cells that have tokens, by the name of the cell, and their tokens and labels.

    Parameters
    ----------
    source
        The cells.
    n_tokens
        Tokens of the vocabulary.
    names
        Of all cells, (n_obs,).
    chosen
        Which of them, (n_obs,) bool.
    labels
        Of all cells, (n_obs, n_tasks) int64.
    which
        What the chosen cells are, for the log.
    """
    from scgeneformer._training.dataset import TokenDataset, gather

    found = gather(((first, tokens) for first, tokens, _ in source.blocks()), chosen, n_tokens)
    rows = np.flatnonzero(chosen)
    cells = TokenDataset(found.ids, found.offsets, labels[rows], found.positions)
    order = np.argsort(names[rows], kind="stable")
    order = order[cells.lengths[order] > 0]
    if n := len(rows) - len(order):
        logg.warning(f"{n} of {len(rows)} cells {which} have no count of a gene that the model knows: left out")
    return rows[order], cells.take(order)
