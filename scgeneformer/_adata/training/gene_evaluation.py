"""What is stored of how well a classifier tells genes that it was not trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer._adata.training.evaluation import with_method

if TYPE_CHECKING:
    from scgeneformer._adata.training.gene_classes import GeneClasses
    from scgeneformer._training.gene_scores import GeneScores

BY_GENE, IN_CELLS = "fine-tuned, genes", "fine-tuned, genes in cells"


def gene_evaluation(genes: GeneClasses, folds: np.ndarray, judged: GeneScores, split: dict[str, Any]) -> dict[str, Any]:
    """The value of ``uns["geneformer_<name>_evaluation"]``; it survives h5ad and zarr.

    Parameters
    ----------
    genes
        The genes and their classes.
    folds
        Fold of each gene, (n_genes,) int.
    judged
        What was found of them.
    split
        How the genes were divided.
    """
    entry, n = None, len(genes.names)
    for method, scores in ((BY_GENE, judged.of_genes), (IN_CELLS, judged.in_cells)):
        entry = with_method(entry, genes.classes, split, method, scores, n_train=n)
    names = np.array(genes.classes, dtype=object)
    table = {
        "class": names[genes.codes],
        "predicted": names[judged.probability.argmax(axis=1)],
        "confidence": judged.probability.max(axis=1),
        "fold": np.asarray(folds, dtype=np.int64),
        "n_cells": judged.n_cells,
    }
    frame = pd.DataFrame(table, index=pd.Index(genes.names.astype(object)))
    return {**(entry or {}), "genes": frame, "probability": judged.probability, "roc": judged.roc}
