from __future__ import annotations

import hashlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scanpy import logging as logg

from scgeneformer._adata import keys
from scgeneformer._adata.training.labels import find_labels
from scgeneformer._adata.training.split import find_split
from scgeneformer._adata.writer import Results, write
from scgeneformer._checks import as_names, check_choice, check_whole
from scgeneformer._docs import shared_docs
from scgeneformer._errors import DataError
from scgeneformer._json import to_json
from scgeneformer._optional import require
from scgeneformer._training.splits import TRAIN, VALIDATION
from scgeneformer.tl._training import begin, labelled_cells

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.run import Run
    from scgeneformer._training.search import Search
    from scgeneformer.models import ModelLike


@shared_docs
def search_classifier(
    adata: AnnData,
    label: str | Sequence[str],
    model: ModelLike | None = None,
    *,
    space: Mapping[str, Any] | None = None,
    n_trials: int = 10,
    metric: Literal["loss", "accuracy", "macro_f1"] = "loss",
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
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
    **settings: Any,
) -> Search:
    """Search for the settings with which :func:`train_classifier` does best.

    Each trial is a training on the training cells, judged on the validation cells; the test cells have no part in it,
    so that they can judge the model trained with what was found. It is `Trainer.hyperparameter_search` of transformers
    with Optuna, which learns from the trials so far what to try next, and gives up trials that are worse than the
    median of the others at the same step. Needs the extra "search": ``pip install "scgeneformer[search]"``.

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts. Cells without a label are left out.
    label
        Column of ``adata.obs``, or several, as for :func:`train_classifier`.
    {model}
    space
        Settings of :class:`scgeneformer.models.Recipe` to search: a list of choices, or a tuple (lowest, highest) or
        (lowest, highest, "log"), such as ``{"learning_rate": (1e-5, 1e-3, "log"), "frozen_layers": [0, 2, 4]}``. None
        takes the space of the reference: learning rate 1e-6 to 1e-3 (log), weight decay 0 to 0.3, schedule linear,
        cosine or polynomial, and a warm-up of 0 to 0.3 of the steps.
    n_trials
        Number of trials.
    metric
        What is best on the validation cells at the end of a trial: the smallest "loss", or the largest "accuracy" or
        "macro_f1".
    {split}
    recipe
        Settings that are not searched: a name (:func:`scgeneformer.models.recipes`), or a
        :class:`scgeneformer.models.Recipe`. Its `patience` takes part in no trial, but is kept.
    seed
        Of split, weights, dropout, order of the cells, and of the settings that are tried.
    out
        File in which the trials are kept: a search that was cut off goes on if the same call is repeated, and a larger
        `n_trials` adds to its trials. Searches whose calls differ do not mix. None keeps nothing.
    {counts}
    previous_layer
        Layer with the counts of the same cells before: the trained model reads two time points. One that reads one
        gets the tokens ``<cls>`` and ``<sep>``, which are learned. A cell of which nothing is known has zeros or NaN.
    device
        "auto" (CUDA where there is one, else CPU) or a torch device.
    dtype
        "auto" (CUDA: mixed precision in bfloat16, CPU: float32), "float32", "bfloat16" or "float16".
    arguments
        Arguments of `transformers.TrainingArguments` that take the place of ours, in every trial.
    **settings
        Settings of the recipe to change, such as ``epochs=3``.

    Returns
    -------
    Its `recipe`, the best settings, to be handed on: ``train_classifier(..., recipe=found.recipe)``; and its `trials`,
    a DataFrame with one row per trial: `state` ("complete", or "pruned" where it was given up), the metric, each
    setting and `seconds`. Sets

    `adata.obs['geneformer_split']` : categorical
        Part of each cell, unless `split` gave it; name it as `split` in the training that follows.

    Raises
    ------
    MissingExtraError
        If Optuna is not installed.
    DataError
        If labels, split, settings, arguments or space cannot be used, there are no validation cells, `out` is another
        kind of file, or all trials were given up. Nothing is written then.
    ModelError
        If the model cannot be used.

    See Also
    --------
    train_classifier : train with what was found.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[::3].copy()
    >>> space = {"learning_rate": (1e-4, 1e-2, "log"), "frozen_layers": [0, 2]}
    >>> found = gf.tl.search_classifier(adata, "cell_type", "mini", space=space, n_trials=2, max_tokens=32, epochs=0.2)
    >>> found.trials["state"].tolist()
    ['complete', 'complete']
    """
    from scgeneformer._engine.pooling import get_pooling
    from scgeneformer._training.search import METRICS, search
    from scgeneformer._training.search_space import read_space
    from scgeneformer._training.task import CellTask

    require("optuna", "search", "search_classifier")
    check_whole(n_trials=n_trials)
    check_choice(METRICS, metric=metric)
    labels = [find_labels(adata, name) for name in dict.fromkeys(as_names(label))]
    if not labels:
        raise DataError("label=[] names no column of adata.obs. Name at least one.")
    with tempfile.TemporaryDirectory() as nowhere:  # a search leaves no model
        beginning = begin(
            adata,
            model,
            recipe,
            settings,
            out=nowhere,
            default_out="",
            counts_layer=counts_layer,
            use_raw=use_raw,
            gene_ids=gene_ids,
            previous_layer=previous_layer,
            device=device,
            dtype=dtype,
            arguments=arguments,
            overwrite=False,
            seed=seed,
        )
    sizes = [len(one.classes) for one in labels]

    def run_of(chosen: Recipe) -> Run:
        get_pooling(chosen.pooling, beginning.vocabulary)
        return replace(beginning, recipe=chosen).run(CellTask(beginning.vocabulary, chosen.pooling, sizes))

    run_of(beginning.recipe).encoder()  # refuses what the model does not have, before anything is run
    asked = read_space(space, beginning.recipe, lambda chosen: run_of(chosen).encoder())
    parts = find_split(adata, labels, split=split, split_by=split_by, fractions=fractions, seed=seed)
    rows, cells = labelled_cells(adata, beginning, labels, parts)
    train, validation = (cells.part(parts.parts[rows] == part) for part in (TRAIN, VALIDATION))
    if not len(validation):
        raise DataError(
            "A search judges by the validation cells, and there are none. Give them a share: fractions=(0.8, 0.1, 0.1)."
        )
    classes = [[one.column, *one.classes] for one in labels]
    request = beginning.request(
        labels=classes,
        split=parts.record,
        cells=[train.checksum(), validation.checksum()],
        space={name: repr(values) for name, values in asked.items()},
        metric=metric,
    )
    start = logg.info(f"searching settings for {', '.join(one.column for one in labels)}, {n_trials} trials")
    found = search(
        run_of,
        beginning.recipe,
        asked,
        train,
        validation,
        metric=metric,
        n_trials=n_trials,
        name=hashlib.sha256(to_json(request).encode()).hexdigest(),
        journal=None if out is None else Path(out).expanduser(),
    )
    results = Results()
    if split is None:
        results.obs[keys.SPLIT] = parts.column
        write(adata, results)
    logg.info(f"    finished: validation {metric} {found.best:.4g}", time=start, deep=f"added {results}")
    return found
