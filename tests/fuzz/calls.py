"""A call of every public function that works on an AnnData."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import torch
from safetensors.torch import save_file
from toys import make_bert, make_model, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine.class_head import ClassHead
from scgeneformer._engine.vocabulary import write_vocabulary
from scgeneformer._training.gene_scores import curves
from scgeneformer.models._classifier import CELLS, GENES, Task, describe
from scgeneformer.models._save_trained import save_trained


@dataclass
class Kit:
    """Tiny models of one vocabulary."""

    model: Any
    masked: Any
    cells: Path
    genes: Path


def make_kit(folder: Path) -> Kit:
    """Write the models that have a head into a folder."""
    vocabulary = make_vocabulary(special=True)
    for kind in (CELLS, GENES):
        classes = ["γδ T/µ", "T cell", "B"]
        entries = describe(kind, "mean" if kind == CELLS else "first", "linear", [Task("kind", classes)])
        head = ClassHead(16, len(classes), "linear").initialise(0.5, 1).tensors()
        save_trained(folder / kind, make_bert(vocabulary), head, vocabulary, config=entries, metrics={}, card="")
    return Kit(make_model(special=True), _masked(folder / "masked", vocabulary), folder / CELLS, folder / GENES)


def _masked(folder: Path, vocabulary: Any) -> Any:
    from transformers import BertForMaskedLM

    torch.manual_seed(0)
    stock = BertForMaskedLM(make_bert(vocabulary).config)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(stock.config.to_dict()))
    tensors = {k: t.clone() for k, t in stock.state_dict().items() if not k.startswith("cls.predictions.decoder")}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_vocabulary(vocabulary, folder)
    return gf.models.load(folder, device="cpu")


@dataclass
class Arguments:
    """What a call needs beside the AnnData."""

    kit: Kit
    where: dict[str, Any]
    groupby: str
    out: Path


Call = Callable[[ad.AnnData, Arguments], Any]


def _names(adata: ad.AnnData) -> list[str]:
    return [str(name) for name in adata.var_names[:2]] or ["G0"]


def _classes(adata: ad.AnnData) -> dict[str, list[str]]:
    names = list(dict.fromkeys(map(str, adata.var_names)))
    return {"yes/ja": names[:6], "no": names[6:13]}


def _with_map(adata: ad.AnnData, a: Arguments) -> None:
    adata.obsm["X_umap"] = np.random.default_rng(0).normal(size=(adata.n_obs, 2))


def _embedded(adata: ad.AnnData, a: Arguments) -> None:
    gf.tl.embed_cells(adata, a.kit.model, **a.where)


def _genes_embedded(adata: ad.AnnData, a: Arguments) -> None:
    gf.tl.embed_genes(adata, a.kit.model, groupby=a.groupby, **a.where)


def _attended(adata: ad.AnnData, a: Arguments) -> None:
    gf.tl.attention(adata, a.kit.model, **a.where)


def _context(adata: ad.AnnData, a: Arguments) -> None:
    gf.tl.rank_genes_context(
        adata, a.groupby, model=a.kit.model, min_cells=1, n_replicates=2, n_rotations=20, **a.where
    )


def _perturbed(adata: ad.AnnData, a: Arguments) -> None:
    names = _names(adata)
    gf.tl.perturb(adata, names[:1], model=a.kit.model, groupby=a.groupby, effects=True, vectors=True, **a.where)


def _scanned(adata: ad.AnnData, a: Arguments) -> None:
    gf.tl.perturb(adata, model=a.kit.model, sample=3, **a.where)


def _ranked(adata: ad.AnnData, a: Arguments) -> None:
    _scanned(adata, a)
    gf.tl.rank_perturbations(adata, min_cells=1)


def _probed(adata: ad.AnnData, a: Arguments) -> None:
    fractions = (0.5, 0.0, 0.5)
    where = {key: value for key, value in a.where.items() if key != "gene_ids"}
    gf.tl.probe(adata, a.groupby, methods="knn", n_neighbors=1, n_pcs=2, fractions=fractions, **where)


def _curves(adata: ad.AnnData, a: Arguments) -> None:
    rng = np.random.default_rng(0)
    found = curves(np.resize(range(2), 60), rng.dirichlet(np.ones(2), 60), np.repeat([0, 1, 2], 20), ["yes/ja", "no"])
    adata.uns["geneformer_gene_class_evaluation"] = {"roc": found}


def _trained(adata: ad.AnnData, a: Arguments) -> None:
    run = {"epochs": 1, "fractions": (0.6, 0.2, 0.2), "arguments": {"save_strategy": "no"}}
    gf.tl.train_classifier(adata, a.groupby, a.kit.model, out=a.out / "cells", **run, **a.where)


def _trained_genes(adata: ad.AnnData, a: Arguments) -> None:
    run = {"epochs": 1, "n_folds": 2}
    gf.tl.train_gene_classifier(adata, _classes(adata), a.kit.model, out=a.out / "genes", **run, **a.where)


def _pretrained(adata: ad.AnnData, a: Arguments) -> None:
    run = {"epochs": 1, "batch_size": 8, "fractions": (0.6, 0.4, 0.0)}
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    gf.tl.pretrain(adata, vocabulary=a.kit.model.vocabulary, config=small, out=a.out / "model", **run, **a.where)


def _searched(adata: ad.AnnData, a: Arguments) -> None:
    space = {"learning_rate": (1e-3, 1e-1, "log")}
    run = {"epochs": 1, "fractions": (0.6, 0.2, 0.2)}
    gf.tl.search_classifier(adata, a.groupby, a.kit.model, space=space, n_trials=1, **run, **a.where)


def _nothing(adata: ad.AnnData, a: Arguments) -> None:
    pass


#: What must be there before, and the call itself, by function.
CALLS: dict[str, tuple[Call, Call]] = {
    "pp.check": (_nothing, lambda d, a: gf.pp.check(d, a.kit.model, **a.where)),
    "pp.gene_medians": (_nothing, lambda d, a: gf.pp.gene_medians(d, **a.where)),
    "pp.map_genes": (
        _nothing,
        lambda d, a: gf.pp.map_genes(d, a.kit.model, **{k: v for k, v in a.where.items() if k != "use_raw"}),
    ),
    "tl.tokenize": (_nothing, lambda d, a: gf.tl.tokenize(d, a.kit.model, **a.where)),
    "tl.embed_cells": (
        _nothing,
        lambda d, a: gf.tl.embed_cells(d, a.kit.model, layer=[0, -1], groupby=[a.groupby, "donor"], **a.where),
    ),
    "tl.embed_genes": (_nothing, _genes_embedded),
    "tl.attention": (_nothing, lambda d, a: gf.tl.attention(d, a.kit.model, groupby=a.groupby, top_k=3, **a.where)),
    "tl.rank_genes_context": (_nothing, _context),
    "tl.perturb": (_nothing, _perturbed),
    "tl.rank_perturbations": (_scanned, lambda d, a: gf.tl.rank_perturbations(d, test="mean", groupby=a.groupby)),
    "tl.score_masked_genes": (
        _nothing,
        lambda d, a: gf.tl.score_masked_genes(d, a.kit.masked, fraction=0.3, **a.where),
    ),
    "tl.predict_masked_genes": (
        _nothing,
        lambda d, a: gf.tl.predict_masked_genes(d, _names(d), a.kit.masked, n_genes=2, **a.where),
    ),
    "tl.gene_neighbors": (_genes_embedded, lambda d, a: gf.tl.gene_neighbors(d, n_neighbors=2)),
    "tl.pca": (_embedded, lambda d, a: gf.tl.pca(d, n_comps=2)),
    "tl.classify": (_nothing, lambda d, a: gf.tl.classify(d, a.kit.cells, **a.where)),
    "tl.classify_genes": (_nothing, lambda d, a: gf.tl.classify_genes(d, a.kit.genes, groupby=a.groupby, **a.where)),
    "tl.split_cells": (_nothing, lambda d, a: gf.tl.split_cells(d, a.groupby)),
    "tl.probe": (_embedded, _probed),
    "tl.train_classifier": (_nothing, _trained),
    "tl.train_gene_classifier": (_nothing, _trained_genes),
    "tl.pretrain": (_nothing, _pretrained),
    "tl.search_classifier": (_nothing, _searched),
    "get.aggregate": (_embedded, lambda d, a: gf.get.aggregate(d, a.groupby)),
    "get.attention_df": (_attended, lambda d, a: gf.get.attention_df(d)),
    "get.classification_df": (_probed, lambda d, a: gf.get.classification_df(d, a.groupby)),
    "get.gene_classification_df": (
        lambda d, a: gf.tl.classify_genes(d, a.kit.genes, **a.where),
        lambda d, a: gf.get.gene_classification_df(d, "kind"),
    ),
    "get.perturbation_effects_df": (_perturbed, lambda d, a: gf.get.perturbation_effects_df(d)),
    "get.rank_genes_context_df": (_context, lambda d, a: gf.get.rank_genes_context_df(d)),
    "get.rank_perturbations_df": (_ranked, lambda d, a: gf.get.rank_perturbations_df(d)),
    "pl.class_scores": (_probed, lambda d, a: gf.pl.class_scores(d, a.groupby, show=False)),
    "pl.confusion": (_probed, lambda d, a: gf.pl.confusion(d, a.groupby, show=False)),
    "pl.reliability": (_probed, lambda d, a: gf.pl.reliability(d, a.groupby, show=False)),
    "pl.embedding": (_embedded, lambda d, a: gf.pl.embedding(d, show=False)),
    "pl.umap": (_with_map, lambda d, a: gf.pl.umap(d, show=False)),
    "pl.gene_context": (_context, lambda d, a: gf.pl.gene_context(d, show=False)),
    "pl.gene_embedding": (_genes_embedded, lambda d, a: gf.pl.gene_embedding(d, show=False, n_neighbors=3)),
    "pl.perturbation": (_ranked, lambda d, a: gf.pl.perturbation(d, show=False)),
    "pl.perturbation_arrows": (
        lambda d, a: (_with_map(d, a), _embedded(d, a), _perturbed(d, a)),
        lambda d, a: gf.pl.perturbation_arrows(d, show=False),
    ),
    "pl.perturbation_effects": (_perturbed, lambda d, a: gf.pl.perturbation_effects(d, show=False, min_cells=1)),
    "pl.roc": (_curves, lambda d, a: gf.pl.roc(d, show=False)),
    "pl.tokens": (
        lambda d, a: gf.tl.tokenize(d, a.kit.model, **a.where),
        lambda d, a: gf.pl.tokens(d, groupby=a.groupby, show=False),
    ),
}

#: Those that take seconds: in the long form only.
SLOW = (
    "tl.train_classifier",
    "tl.train_gene_classifier",
    "tl.pretrain",
    "tl.search_classifier",
    "pl.gene_embedding",
)
