from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scanpy import logging as logg

from scgeneformer._docs import shared_docs
from scgeneformer._training.splits import VALIDATION
from scgeneformer.tl._pretraining import (
    begin_pretraining,
    choose_recipe,
    digest,
    judge,
    read_material,
    save_pretrained,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from anndata import AnnData

    from scgeneformer._engine.vocabulary import Vocabulary
    from scgeneformer._training.recipe import Recipe
    from scgeneformer._training.trained import Trained
    from scgeneformer.models import ModelLike


@shared_docs
def pretrain(
    adata: AnnData | str | os.PathLike[str] | Sequence[AnnData | str | os.PathLike[str]],
    model: ModelLike | None = None,
    *,
    vocabulary: Vocabulary | None = None,
    orthologs: Mapping[str, str | Sequence[str]] | pd.Series | pd.DataFrame | None = None,
    config: Mapping[str, Any] | None = None,
    split: str | None = None,
    split_by: str | Sequence[str] | None = None,
    fractions: tuple[float, float, float] = (0.9, 0.1, 0.0),
    recipe: str | Recipe = "geneformer",
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
    """Train Geneformer to predict masked genes, from scratch or on from a pretrained model.

    Of each cell 15 % of the genes are chosen, anew in every epoch; 80 % of these are masked, 10 % replaced by a random
    gene and 10 % left as they are, and the model learns to tell which gene was there (Theodoris et al. 2023; special
    tokens are never chosen). If the vocabulary reads value bins (:class:`scgeneformer.models.ValueBinned`), 40 % of the
    genes keep their token and lose their value, and the model learns to tell its bin (Cui et al. 2024, scGPT). The loop
    is `transformers.Trainer` on packed sequences, without padding.

    Where it begins:

    - `vocabulary` alone: from scratch, with the architecture in `config`;
    - `model` alone: with the weights of a pretrained model and its vocabulary;
    - both: with the weights of the model and other genes. Those that the model knows, by Ensembl ID, keep their
      embeddings; a gene of another species begins with that of its ortholog in `orthologs`; all others begin with the
      mean of all genes, which changes least in what the model predicts (Hewitt 2021).

    Parameters
    ----------
    adata
        Cells × genes, with raw or log1p-normalised counts; or the path of a folder of tokens (``*.dataset``), such as
        Genecorpus-30M; or a list of such data sets. In folders, cells that are too long are cut, and tokens that a cell
        holds twice are read once.
    model
        Model to begin with: registry name, local directory, ``org/repo[/subfolder]`` or a loaded model. Unlike
        elsewhere None takes none.
    vocabulary
        Genes, medians and special tokens of the trained model (:func:`scgeneformer.models.build_vocabulary`). None
        takes those of `model`.
    orthologs
        Gene of `vocabulary` -> gene of `model`, or several, whose mean it then begins with: a dictionary, a Series
        whose index are the former, or a DataFrame whose first two columns are these; Ensembl IDs or symbols. Not used
        for genes that the model knows itself.
    config
        Entries of the BERT config for a model from scratch, such as ``{"hidden_size": 512, "num_hidden_layers": 12}``.
        By default 6 blocks of width 256, with heads of width 64, a feed-forward layer of twice the width, ReLU and
        dropout 0.02 (Geneformer-V1-10M).
    {split}
    {recipe}
    seed
        Of split, weights, masks, dropout and order of the cells.
    out
        Directory of the trained model; by default ``geneformer_pretrained`` in the working directory. A training that
        was cut off there goes on from its last checkpoint if the same call is repeated.
    {counts}
    previous_layer
        Layer with the counts of the same cells before, for a vocabulary of two time points.
    {training}

    Returns
    -------
    The trained model: its `folder`, which all other functions take as a model (as they take the returned object
    itself), and its `metrics`: loss, accuracy and perplexity on held-out cells beside the loss of predicting by the
    frequency of genes alone, checksums of the data, tokens seen, hours, and the loss curve. Sets, in each AnnData,

    `adata.obs['geneformer_split']` : categorical
        Part of each cell, unless `split` gave it.

    Raises
    ------
    DataError
        If counts, split, settings, arguments or orthologs cannot be used, or neither model nor vocabulary is named.
        Nothing is written then.
    ModelError
        If the model has no head for masked genes or shares no gene with the vocabulary, the vocabulary has no token
        ``<mask>``, or `out` holds something else.

    See Also
    --------
    score_masked_genes : how well a model foretells each cell.
    train_classifier : the next step.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> adata = gf.datasets.pbmc68k()[:50].copy()
    >>> trained = gf.tl.pretrain(adata, "mini", learning_rate=1e-4, epochs=1, max_tokens=32)
    >>> sorted(trained.metrics["metrics"]["validation"])
    ['accuracy', 'loss', 'n_cells', 'perplexity', 'unigram_loss']
    """
    from scgeneformer._training.masked_genes import MaskedDataset
    from scgeneformer._training.unfinished import open_folder

    beginning, corpus, objective = begin_pretraining(
        adata,
        model,
        vocabulary,
        orthologs,
        choose_recipe(recipe, model, config, settings),
        out=out,
        device=device,
        dtype=dtype,
        arguments=arguments,
        overwrite=overwrite,
        seed=seed,
        counts_layer=counts_layer,
        use_raw=use_raw,
        gene_ids=gene_ids,
        previous_layer=previous_layer,
    )
    parts = corpus.split(split, split_by, fractions=fractions, seed=seed)
    run = beginning.run(objective)
    run.check(bool((parts.parts == VALIDATION).any()))
    material = read_material(beginning, corpus, parts)
    train, *others = (MaskedDataset.of(cells, objective, seed, i) for i, cells in enumerate(material.parts))
    held_out = {name: cells for name, cells in zip(("validation", "test"), others, strict=True) if len(cells)}
    run.check("validation" in held_out)  # of which all may have been empty
    request = beginning.request(data=material.facts, split=parts.record, orthologs=digest(orthologs))
    checkpoints = open_folder(beginning.folder, request, overwrite)
    start = logg.info(f"pretraining on {len(train):,} cells, {material.n_tokens:,} tokens")
    network, history = run.train(checkpoints, train, held_out.get("validation"))
    judged = judge(network, objective, material, held_out)
    trained = save_pretrained(beginning, network, history, judged, material, parts, objective)
    if split is None:
        corpus.write_split(parts)
    logg.info(f"    finished: {trained.folder}", time=start)
    return trained
