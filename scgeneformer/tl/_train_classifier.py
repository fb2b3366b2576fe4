from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.training.evaluation import evaluation
from scgeneformer._adata.training.labels import find_labels
from scgeneformer._adata.training.split import find_split
from scgeneformer._adata.writer import Results, write
from scgeneformer._checks import as_names
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer._training.splits import TEST, TRAIN, VALIDATION
from scgeneformer.tl._training import Beginning, begin, labelled_cells, save

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scgeneformer._adata.training.labels import Labels
    from scgeneformer._adata.training.split import Split
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.held_out import Outcome
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.scores import Scores
    from scgeneformer._training.trained import Trained
    from scgeneformer.models import ModelLike

METHOD = "fine-tuned"


@shared_docs
def train_classifier(
    adata: AnnData,
    label: str | Sequence[str],
    model: ModelLike | None = None,
    *,
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    n_folds: int | None = None,
    recipe: str | Recipe = "default",
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    previous_layer: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Trained:
    """Fine-tune Geneformer to tell the label of a cell.

    A head is put on the last block and trained together with it by `transformers.Trainer` (`Classifier` of the
    reference with ``classifier="cell"``). The cells come from `adata` as packed sequences, without padding and
    without files in between. The model is judged on cells that were held out, whole donors if `split_by` names them.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts. Cells without a label are left out.
    label
        Column of ``adata.obs``, or several: one model then tells them all at once.
    {model}
    {split}
    n_folds
        Cross-validate: so many models are trained and judged on the cells each did not see, and a last one on all
        cells; that one is kept. `split` then is a column with the numbers of the folds.
    {recipe}
    seed
        Of split, weights, dropout and order of the cells.
    out
        Directory of the trained model; by default ``geneformer_<label>`` in the working directory. A training that
        was cut off there goes on from its last checkpoint if the same call is repeated.
    {counts}
    previous_layer
        Layer with the counts of the same cells before: the trained model reads two time points. One that reads one
        gets the tokens ``<cls>`` and ``<sep>``, which are learned. A cell of which nothing is known has zeros or NaN.
    {training}

    Returns
    -------
    The trained model: its `folder`, which `gf.tl.classify`, `gf.tl.embed_cells` and all others take as a model (as
    they take the returned object itself), and its `metrics`. Sets

    `adata.uns['geneformer_<label>_evaluation']` : dict
        Accuracy, macro F1, AUC, confusion and more on the test cells, as method "fine-tuned" beside those of
        :func:`probe`; read by :func:`scgeneformer.get.classification_df`.
    `adata.obs['geneformer_split']` : categorical
        Part of each cell ("geneformer_fold" with `n_folds`), unless `split` gave it.

    Raises
    ------
    DataError
        If labels, split, settings or arguments cannot be used: a class with one cell, a single class, a class that is
        missing from the training cells, a column that does not exist. Nothing is written then.
    ModelError
        If the model cannot be used, or `out` holds something else.

    See Also
    --------
    classify : apply the trained model.
    probe : what simple methods make of stored embeddings and of PCA, on the same split.
    train_gene_classifier : classes of genes.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::3].copy()
    >>> trained = gf.tl.train_classifier(adata, "cell_type", model="mini", max_tokens=64, epochs=1)
    >>> sorted(path.name for path in trained.folder.iterdir())[:3]
    ['README.md', 'aliases.tsv', 'config.json']
    """
    from scgeneformer._training.held_out import cross_validate, train_once
    from scgeneformer._training.task import CellTask
    from scgeneformer._training.unfinished import open_folder

    labels = [find_labels(adata, name) for name in dict.fromkeys(as_names(label))]
    if not labels:
        raise DataError("label=[] names no column of adata.obs. Name at least one.")
    keys.prediction_keys([one.column for one in labels])  # refuses those whose results would have one key
    beginning = begin(
        adata,
        model,
        recipe,
        settings,
        out=out,
        default_out=keys.prediction_key("_".join(one.column for one in labels)),
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
        device=device,
        dtype=dtype,
        arguments=arguments,
        overwrite=overwrite,
        seed=seed,
    )
    parts = find_split(adata, labels, split=split, split_by=split_by, fractions=fractions, n_folds=n_folds, seed=seed)
    rows, cells = labelled_cells(adata, beginning, labels, parts)
    part = parts.parts[rows]
    pooling, sizes = beginning.recipe.pooling, [len(one.classes) for one in labels]
    run = beginning.run(CellTask(beginning.vocabulary, pooling, sizes))
    run.encoder()  # refuses what the model does not have, before anything is written
    validates = bool((part == VALIDATION).any())
    if n_folds is not None:  # of the folds the next one is watched, where patience asks for it
        validates = run.recipe.patience is not None
    run.check(validates)
    names = [one.column for one in labels]
    classes = [[one.column, *one.classes] for one in labels]
    request = beginning.request(labels=classes, split=parts.record, cells=cells.checksum())
    checkpoints = open_folder(beginning.folder, request, overwrite)
    start = logg.info(f"fine-tuning {beginning.model.name} on {', '.join(names)}, {len(cells)} cells")
    train = train_once if n_folds is None else cross_validate
    outcome = train(run, cells, part, checkpoints)

    judged = _judge(labels, cells, outcome, part, n_folds)
    results = Results()
    if split is None:
        results.obs[keys.FOLD if n_folds else keys.SPLIT] = parts.column
    trains = (part == TRAIN) | (n_folds is not None)
    for one in labels:
        if (scores := judged[one.column].get("test")) is not None:
            n_train = int((trains & (one.codes[rows] >= 0)).sum())
            key = keys.evaluation_key(one.column)
            record = parts.record_of(adata, one)
            results.uns[key] = evaluation(adata, key, one.classes, record, METHOD, scores, n_train=n_train)
    trained = _save(beginning, outcome, labels, judged, parts, cells)
    write(adata, results)
    logg.info(f"    finished: {trained.folder}", time=start, deep=f"added {results}")
    return trained


def _judge(
    labels: list[Labels], cells: TokenDataset, outcome: Outcome, parts: np.ndarray, n_folds: int | None
) -> dict[str, dict[str, Scores]]:
    """Scores of each label on the validation and the test cells; in cross-validation all are test cells."""
    from scgeneformer._engine.classification import softmax
    from scgeneformer._training.scores import score

    everywhere = np.ones(len(cells), dtype=bool)
    which = {"test": everywhere} if n_folds else {"validation": parts == VALIDATION, "test": parts == TEST}
    probabilities = softmax(outcome.logits, [len(one.classes) for one in labels])
    judged: dict[str, dict[str, Scores]] = {}
    for one, truth, probability in zip(labels, cells.labels.T, probabilities, strict=True):
        judged[one.column] = {
            part: score(truth[chosen], probability[chosen])
            for part, here in which.items()
            if (chosen := here & (truth >= 0)).any()
        }
    return judged


def _save(
    beginning: Beginning,
    outcome: Outcome,
    labels: list[Labels],
    judged: dict[str, dict[str, Scores]],
    parts: Split,
    cells: TokenDataset,
) -> Trained:
    """Write the directory of the trained model."""
    from scgeneformer._training.card import model_card
    from scgeneformer.models._classifier import CELLS, Task, describe

    tasks = [Task(one.column, one.classes) for one in labels]
    metrics = {
        "metrics": {name: {part: s.to_dict() for part, s in of.items()} for name, of in judged.items()},
        "split": parts.record,
        "history": outcome.history,
    }
    settings = beginning.recipe.to_dict()
    card = model_card(
        f"{beginning.model.name}, fine-tuned for {', '.join(one.column for one in labels)}",
        f"Geneformer ({beginning.model.name}) that tells {' and '.join(one.column for one in labels)} of a cell.",
        f'gf.tl.classify(adata, "{beginning.folder.name}")',
        data={
            "cells": len(cells),
            **{f"classes of {one.column}": ", ".join(one.classes) for one in labels},
            **{f"split: {name}": value for name, value in parts.record.items()},
        },
        metrics={
            f"{part} cells ({name})" if len(labels) > 1 else f"{part} cells": s.summary
            for name, of in judged.items()
            for part, s in of.items()
        },
        training={**settings, "seed": beginning.seed, "base model": beginning.model.name},
    )
    entries = describe(CELLS, beginning.recipe.pooling, beginning.recipe.head, tasks)
    record = {"recipe": settings, "seed": beginning.seed, "labels": [one.column for one in labels]}
    return save(beginning, outcome.network, entries, metrics=metrics, card=card, record=record)
