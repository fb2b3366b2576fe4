from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.sampling import sample_cells
from scgeneformer._adata.training.gene_classes import find_gene_classes
from scgeneformer._adata.training.gene_evaluation import gene_evaluation
from scgeneformer._adata.writer import Results, write
from scgeneformer._checks import check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer.tl._training import Beginning, begin, save

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scgeneformer._adata.training.gene_classes import GeneClasses
    from scgeneformer._training.dataset import TokenDataset
    from scgeneformer._training.gene_scores import GeneScores
    from scgeneformer._training.held_out import Outcome
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.trained import Trained
    from scgeneformer.models import ModelLike

FOLD_SEED = 0  # of the folds of genes, as in the reference
NO_GENE = -1


@shared_docs
def train_gene_classifier(
    adata: AnnData,
    classes: Mapping[str, Sequence[str]],
    model: ModelLike | None = None,
    *,
    label: str = "gene_class",
    n_folds: int | None = 5,
    recipe: str | Recipe = "default",
    sample: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    arguments: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> Trained:
    r"""Fine-tune Geneformer to tell the class of a gene from its context in a cell.

    A head is put on the state of every gene in the last block and trained together with it by `transformers.Trainer`
    (`Classifier` of the reference with ``classifier="gene"``). The loss counts only the genes whose class is given, in
    every cell that contains them; all other genes of these cells are context.

    The model is judged by cross-validation over genes: the genes of each fold are told by a model that did not learn
    their class (it saw them as context). Genes are divided with the same share of every class in each fold. Two kinds
    of scores are stored. "fine-tuned, genes in cells" counts every gene in every cell, so that genes in many cells
    weigh more: this is what the reference reports. "fine-tuned, genes" counts every gene once, by the mean of its
    probabilities over cells: how far a list of told genes can be trusted.

    Parameters
    ----------
    {cells}
    classes
        Name of each class, and its genes: as in ``adata.var_names``, in the column of `gene_ids`, or as any symbol,
        alias or Ensembl ID the model knows. Genes that are missing are listed in a warning and left out.
    {model}
    label
        What is told, in keys: "geneformer_<label>".
    n_folds
        Folds of genes, one model for each; the last model, which is kept, is trained on all genes. None or 0 leaves
        the cross-validation out.
    recipe
        Settings by name (:func:`scgeneformer.models.recipes`), or a :class:`scgeneformer.models.Recipe`. Its `pooling`
        has no meaning here. With `patience`, training watches the genes of one further fold, which do not train.
    sample
        Work on a random sample of at most so many of the cells that contain genes with a class, drawn by their names;
        None takes all.
    seed
        Of the sample, weights, dropout and order of the cells. The folds are those of seed 0, as in the reference.
    out
        Directory of the trained model; by default ``geneformer_<label>`` in the working directory. A training that
        was cut off there goes on from its last checkpoint if the same call is repeated.
    {counts}
    {training}

    Returns
    -------
    The trained model: its `folder`, which `gf.tl.classify_genes`, `gf.tl.embed_genes` and all others take as a model
    (as they take the returned object itself), and its `metrics`. Sets, unless there are no folds,

    `adata.uns['geneformer_<label>_evaluation']` : dict
        Scores of both kinds in the form of :func:`train_classifier`; also `genes`, a table with class, fold, number of
        cells, told class and confidence of each gene, `probability`, its mean probabilities (n_genes, n_classes), and
        `roc`, the curves of the folds and their mean, interpolated as in the reference. Read by
        :func:`scgeneformer.get.gene_classification_df` and :func:`scgeneformer.pl.roc`.

    Raises
    ------
    DataError
        If there are fewer than two classes, a gene is in two of them, or a class has fewer than 5 genes in the cells,
        or fewer than folds; if counts, settings or arguments cannot be used. Nothing is written then.
    ModelError
        If the model cannot be used, or `out` holds something else.

    See Also
    --------
    classify_genes : apply the trained model to all genes.
    train_classifier : classes of cells.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:60].copy()
    >>> names = adata.var_names.astype(str)
    >>> classes = {"respiration": names[names.str.match("NDUF|COX")], "surface": names[names.str.match(r"CD\d")]}
    >>> trained = gf.tl.train_gene_classifier(adata, classes, model="mini", n_folds=2, max_tokens=64)
    >>> adata.uns["geneformer_gene_class_evaluation"]["table"].shape[0]
    2
    """
    from scgeneformer._training.folds import MIN_GENES, gene_folds
    from scgeneformer._training.held_out import cross_validate, train_once
    from scgeneformer._training.task import GeneTask
    from scgeneformer._training.unfinished import open_folder

    n_folds = n_folds or None
    _check(label, n_folds, sample)
    beginning = begin(
        adata,
        model,
        recipe,
        settings,
        out=out,
        default_out=keys.prediction_keys([label])[0],
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        device=device,
        dtype=dtype,
        arguments=arguments,
        overwrite=overwrite,
        seed=seed,
    )
    _check_patience(beginning.recipe, n_folds)
    least, n_tokens = max(MIN_GENES, n_folds or 0), beginning.vocabulary.n_tokens
    asked = find_gene_classes(beginning.source, classes)
    asked.check_sizes(least)
    run = beginning.run(GeneTask(len(asked.classes)))
    run.encoder()  # refuses what the model does not have, before anything is written
    validates = run.recipe.patience is not None  # the genes of the next fold
    run.check(validates)
    cells = _cells(adata, beginning, asked, sample)
    genes = asked.seen(np.bincount(cells.ids, minlength=n_tokens))
    genes.check_sizes(least)
    fold_of_gene = np.zeros(len(genes.codes), dtype=np.int64)
    if n_folds is not None:
        fold_of_gene = gene_folds(genes.codes, n_folds, FOLD_SEED)
    record = {"n_folds": n_folds or 0, "seed": FOLD_SEED, "checksum": cells.checksum(fold_of_gene.astype(np.int64))}
    checkpoints = open_folder(beginning.folder, beginning.request(classes=genes.classes, split=record), overwrite)
    start = logg.info(
        f"fine-tuning {beginning.model.name} on {len(genes.classes)} classes of {len(genes.names)} genes in "
        f"{len(cells)} cells"
    )
    results, judged = Results(), None
    if n_folds is None:
        everything = np.zeros(n_tokens, dtype=np.int64)
        outcome = train_once(run, cells, everything, checkpoints / "all")
    else:
        outcome = cross_validate(run, cells, genes.by_token(fold_of_gene, n_tokens, NO_GENE), checkpoints)
        judged = _judge(cells, outcome, genes, fold_of_gene)
        results.uns[keys.evaluation_key(label)] = gene_evaluation(genes, fold_of_gene, judged, record)
    trained = _save(beginning, outcome, label, genes, judged, record, len(cells))
    write(adata, results)
    logg.info(f"    finished: {trained.folder}", time=start, deep=f"added {results}")
    return trained


def _check(label: Any, n_folds: int | None, sample: int | None) -> None:
    if not isinstance(label, str) or not label:
        raise DataError(f"label={label!r} must be a text, such as 'dosage'.")
    check_whole(2, n_folds=2 if n_folds is None else n_folds)
    check_whole(sample=1 if sample is None else sample)


def _check_patience(recipe: Recipe, n_folds: int | None) -> None:
    if recipe.patience is not None and (n_folds or 0) < 3:
        raise DataError(
            f"patience={recipe.patience} watches the genes of one fold while those of another are held out, so that at "
            "least three folds are needed. Leave patience out, or take n_folds=3 or more."
        )


def _cells(adata: AnnData, beginning: Beginning, genes: GeneClasses, sample: int | None) -> TokenDataset:
    """The cells that contain genes with a class, up to `sample`, by the name of the cell."""
    from scgeneformer._training.dataset import IGNORED, TokenDataset, containing, gather

    n_tokens, source = beginning.vocabulary.n_tokens, beginning.source
    labels = genes.by_token(genes.codes, n_tokens, IGNORED)
    there = containing(source.counted()[1], labels != IGNORED, adata.n_obs)
    if not there.any():
        raise DataError("No cell contains any of the genes in classes=. List genes that are expressed.")
    chosen = sample_cells(adata, sample, beginning.seed, there, np.zeros(adata.n_obs, dtype=np.int64))
    found = gather(source.counted()[1], chosen, n_tokens)
    cells = TokenDataset(found.ids, found.offsets, labels, found.positions)
    return cells.take(np.argsort(adata.obs_names.to_numpy(str)[chosen], kind="stable"))


def _judge(cells: TokenDataset, outcome: Outcome, genes: GeneClasses, fold_of_gene: np.ndarray) -> GeneScores:
    from scgeneformer._training.gene_scores import judge_genes

    judged = judge_genes(cells, outcome.logits, genes.tokens, genes.codes, fold_of_gene, genes.classes)
    auc, sd = judged.summaries["genes in cells"]["auc_over_folds"], judged.summaries["genes in cells"]["auc_sd"]
    logg.info(f"    AUC of held-out genes: {auc:.3f} ± {sd:.3f} in cells, {judged.of_genes.summary['auc']:.3f} by gene")
    return judged


def _save(
    beginning: Beginning,
    outcome: Outcome,
    label: str,
    genes: GeneClasses,
    judged: GeneScores | None,
    record: dict[str, Any],
    n_cells: int,
) -> Trained:
    """Write the directory of the trained model."""
    from scgeneformer._training.card import model_card
    from scgeneformer.models._classifier import GENES, Task, describe

    settings = beginning.recipe.to_dict()
    sizes = np.bincount(genes.codes).tolist()
    metrics = {
        "metrics": {} if judged is None else judged.to_dict(),
        "split": record,
        "genes": {one: genes.names[genes.codes == i].tolist() for i, one in enumerate(genes.classes)},
        "history": outcome.history,
    }
    card = model_card(
        f"{beginning.model.name}, fine-tuned for {label} of genes",
        f"Geneformer ({beginning.model.name}) that tells the class ({label}) of a gene from its context in a cell.",
        f'gf.tl.classify_genes(adata, "{beginning.folder.name}")',
        data={
            "cells": n_cells,
            "classes": ", ".join(f"{one} ({n} genes)" for one, n in zip(genes.classes, sizes, strict=True)),
            "folds of genes": record["n_folds"] or "none, nothing was held out",
        },
        metrics={} if judged is None else judged.summaries,
        training={**settings, "seed": beginning.seed, "base model": beginning.model.name},
    )
    entries = describe(GENES, "first", beginning.recipe.head, [Task(label, genes.classes)])
    trained_how = {"recipe": settings, "seed": beginning.seed, "labels": [label]}
    return save(beginning, outcome.network, entries, metrics=metrics, card=card, record=trained_how)
