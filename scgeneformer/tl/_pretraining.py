"""The steps of pretraining: what it starts from, its cells, and what is written of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer import models
from scgeneformer._adata.training.corpus import Corpus, open_corpus
from scgeneformer._errors import DataError
from scgeneformer._training.recipe import OF_CLASSIFIERS, Recipe, check_use, find_recipe
from scgeneformer._training.splits import PARTS, TRAIN
from scgeneformer.tl._training import Beginning, find_place, limited, read_arguments, read_cells, save

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from scgeneformer._adata.training.split import Split
    from scgeneformer._engine.masked_head import MaskedHead
    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.masked_genes import Objective
    from scgeneformer._training.masked_values import ValueHead
    from scgeneformer._training.network import Network
    from scgeneformer._training.trained import Trained
    from scgeneformer.models import Model, ModelLike

DEFAULT_OUT = "geneformer_pretrained"


@dataclass(frozen=True, eq=False)
class Material:
    """The cells of a training, by part, and facts about their data sets.

    Parameters
    ----------
    parts
        Cells for training, validation and test.
    facts
        Of each data set: cells, tokens, checksum of these, and where they were found.
    """

    parts: list[TokenDataset]
    facts: list[dict[str, Any]]

    @property
    def n_tokens(self) -> int:
        """Tokens of the training cells."""
        return len(self.parts[TRAIN].ids)


def choose_recipe(
    recipe: str | Recipe, model: ModelLike | None, config: Mapping[str, Any] | None, changes: dict[str, Any]
) -> Recipe:
    """Recipe by name, from scratch without a model, and with one, unless it was asked for, from its weights."""
    if model is None and changes.get("init") == "pretrained":
        raise DataError("init='pretrained' begins with the weights of a model. Name it: model='...'.")
    if model is None:
        changes = {**changes, "init": "random"}
    elif isinstance(recipe, str):
        changes = {"init": "pretrained", **changes}
    if config is not None:
        changes = {**changes, "config": dict(config)}
    chosen = find_recipe(recipe, changes, OF_CLASSIFIERS)
    check_use(chosen, OF_CLASSIFIERS, "gf.tl.pretrain, but of classifiers")
    return chosen


def find_start(
    model: ModelLike | None, vocabulary: Vocabulary | None, orthologs: Any, recipe: Recipe
) -> tuple[Model, MaskedHead | ValueHead | None]:
    """The model that the training begins with, whose vocabulary is that of the trained one; None: the head is drawn."""
    from scgeneformer.models._start import with_head, without_weights

    if orthologs is not None and (vocabulary is None or recipe.init == "random"):
        raise DataError(
            "orthologs lead from the genes of a new vocabulary to those of a pretrained model. Name both, vocabulary= "
            "and model=."
        )
    if model is None:
        if vocabulary is None:
            raise DataError(
                "Name what to begin with: vocabulary= to train from scratch, model= to go on with a pretrained one, or "
                "both to give a pretrained model other genes."
            )
        return without_weights(vocabulary, recipe.config), None
    loaded = models.load(model, device="cpu", dtype="float32")
    if recipe.init == "random":
        return loaded if vocabulary is None else replace(loaded, vocabulary=vocabulary), None
    return with_head(loaded, vocabulary, orthologs)


def digest(orthologs: Any) -> str:
    """SHA-256 of orthologs; empty without any."""
    from scgeneformer._training.transfer import read_orthologs

    return "" if orthologs is None else hashlib.sha256(repr(read_orthologs(orthologs)).encode()).hexdigest()


def begin_pretraining(
    adata: Any,
    model: ModelLike | None,
    vocabulary: Vocabulary | None,
    orthologs: Any,
    recipe: Recipe,
    *,
    out: str | os.PathLike[str] | None,
    device: str,
    dtype: str,
    arguments: Mapping[str, Any] | None,
    overwrite: bool,
    seed: int,
    **where: Any,
) -> tuple[Beginning, Corpus, Objective]:
    """Load what it starts from, find the cells, check recipe and directory; `where` is for `open_tokens`."""
    from scgeneformer._training.objectives import find_objective

    place = find_place(DEFAULT_OUT if out is None else out, overwrite, device, dtype)
    start, head = find_start(model, vocabulary, orthologs, recipe)
    genes = limited(start.vocabulary, start, recipe)
    if genes.input_size < start.vocabulary.input_size:
        logg.info(f"    cells are cut to {genes.max_genes:,} genes, as positions of the model or max_tokens= allow")
    objective = find_objective(genes, head)
    corpus = open_corpus(adata, genes, **where)
    beginning = Beginning(start, recipe, genes, corpus.sets, *place, read_arguments(arguments), seed)
    beginning.run(objective).encoder()  # refuses what cannot be built, before anything is written
    return beginning, corpus, objective


def read_material(beginning: Beginning, corpus: Corpus, split: Split) -> Material:
    """Encode all cells that are in a part; those of each data set by the names of the cells."""
    from scgeneformer._training.dataset import joined

    read, facts, numbers = [], [], []
    n_tokens = beginning.vocabulary.n_tokens
    for one, some in zip(corpus.sets, corpus.slices(), strict=True):
        parts = split.parts[some]
        labels = np.empty((len(parts), 0), dtype=np.int64)
        rows, cells = read_cells(one, n_tokens, one.names, parts >= 0, labels, "to train and validate on")
        read.append(cells)
        numbers.append(parts[rows])
        facts.append({"cells": len(cells), "tokens": len(cells.ids), "checksum": cells.checksum(), **one.params})
    cells, part = joined(read), np.concatenate(numbers)
    found = [cells.part(part == number) for number in range(len(PARTS))]
    if not len(found[TRAIN]):
        raise DataError(
            "No training cell has a count of a gene of the vocabulary. Take one that has the genes of the data."
        )
    return Material(found, facts)


def judge(
    network: Network, objective: Objective, material: Material, held_out: Mapping[str, TokenDataset]
) -> dict[str, dict[str, float]]:
    """Loss and accuracy on held-out cells, and the loss of what knows nothing but how frequent genes are."""
    from scgeneformer._training.masked_genes import unigram_loss

    frequencies = objective.frequencies(material.parts[TRAIN])
    judged = {}
    for part, cells in held_out.items():
        found = objective.measure(network, cells)
        alone = unigram_loss(frequencies, cells)
        judged[part] = {
            **found,
            "perplexity": float(np.exp(found["loss"])),
            "unigram_loss": alone,
            "n_cells": len(cells),
        }
        logg.info(
            f"    {part} cells: loss on masked {objective.hidden} {found['loss']:.4f} (by their frequency alone "
            f"{alone:.4f}), accuracy {found['accuracy']:.3f}"
        )
    return judged


def save_pretrained(
    beginning: Beginning,
    network: Network,
    history: list[dict[str, Any]],
    judged: dict[str, dict[str, float]],
    material: Material,
    split: Split,
    objective: Objective,
) -> Trained:
    """Write the directory of the trained model."""
    from scgeneformer._training.card import curve_table, model_card

    base = beginning.model
    settings = {name: value for name, value in beginning.recipe.to_dict().items() if name not in OF_CLASSIFIERS}
    seen = {
        "tokens_seen": round(max(entry.get("epoch", 0.0) for entry in history) * material.n_tokens),
        "hours": round(max(entry.get("seconds", 0.0) for entry in history) / 3600, 3),
    }
    n_cells = {part: len(cells) for part, cells in zip(PARTS, material.parts, strict=True)}
    metrics = {"metrics": judged, "data": material.facts, "split": split.record, **seen, "history": history}
    from_scratch = beginning.recipe.init == "random"
    config = network.bert.config
    card = model_card(
        f"Geneformer, {'pretrained' if from_scratch else f'pretrained further from {base.name}'}",
        f"Geneformer of {config.num_hidden_layers} blocks, width {config.hidden_size}, that predicts masked "
        f"{objective.hidden} ({len(beginning.vocabulary.tokens):,} genes).",
        f'gf.tl.embed_cells(adata, "{beginning.folder.name}")',
        data={
            **{f"data set {i}": _line(facts) for i, facts in enumerate(material.facts)},
            **{f"{part} cells": n for part, n in n_cells.items()},
            **{f"split: {name}": value for name, value in split.record.items()},
        },
        metrics=judged,
        training={
            **settings,
            "seed": beginning.seed,
            "precision": beginning.half or "float32",
            **({} if not base.checksum else {"base model": f"{base.name} ({base.checksum})"}),
            **{name.replace("_", " "): value for name, value in seen.items()},
            **{f"argument {name}": value for name, value in beginning.arguments.items()},
        },
        more={"Loss curve": curve_table(history)},
    )
    record = {"recipe": settings, "seed": beginning.seed, "data": material.facts, "cells": n_cells, **seen}
    return save(beginning, network, objective.entries, metrics=metrics, card=card, record=record, kind="pretraining")


def _line(facts: dict[str, Any]) -> str:
    return (
        f"{facts['cells']:,} cells, {facts['tokens']:,} tokens (SHA-256 {facts['checksum']}), from {facts['counts']}, "
        f"genes from {facts['gene_ids']}"
    )
