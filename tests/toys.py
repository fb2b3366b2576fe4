"""Hand-made vocabularies, models and AnnData."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

from scgeneformer._engine.vocabulary import Vocabulary


def make_vocabulary(n_genes: int = 40, *, special: bool = False, input_size: int = 16, seed: int = 0) -> Vocabulary:
    """Human-like genes ENSG00000000000 ... with symbols G0, G1, ... and random medians."""
    names = ("<pad>", "<mask>", "<cls>", "<eos>") if special else ("<pad>", "<mask>")
    rng = np.random.default_rng(seed)
    return Vocabulary(
        tokens=np.arange(len(names), len(names) + n_genes, dtype=np.int32),
        ensembl_ids=np.array([f"ENSG{i:011d}" for i in range(n_genes)]),
        symbols=np.array([f"G{i}" for i in range(n_genes)]),
        medians=rng.choice([0.5, 1.0, 2.0, 3.0], n_genes),
        special={name: i for i, name in enumerate(names)},
        input_size=input_size,
        aliases={"OLD3": "ENSG00000000003"},
    )


def make_counts(n_cells: int = 12, n_genes: int = 40, density: float = 0.4, seed: int = 0) -> sp.csr_matrix:
    """Small whole counts with many ties, (n_cells, n_genes) CSR float32."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 6, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    return sp.csr_matrix(dense.astype(np.float32))


def make_adata(n_cells: int = 12, n_genes: int = 40, seed: int = 0) -> ad.AnnData:
    """Counts of :func:`make_counts` with Ensembl IDs, symbols and labels."""
    var = pd.DataFrame(
        {"ensembl_id": [f"ENSG{i:011d}" for i in range(n_genes)]}, index=[f"G{i}" for i in range(n_genes)]
    )
    labels = np.resize(["T cell", "CD4+/CD25 T Reg", "B"], n_cells)
    obs = pd.DataFrame({"cell_type": pd.Categorical(labels), "donor": np.resize(["a", "b"], n_cells)})
    obs.index = [f"cell{i}" for i in range(n_cells)]
    return ad.AnnData(make_counts(n_cells, n_genes, seed=seed), obs=obs, var=var)


def clear_cells(adata: ad.AnnData, *rows: int) -> None:
    """Set all counts of the given cells to zero."""
    dense = adata.X.toarray()
    dense[list(rows)] = 0
    adata.X = sp.csr_matrix(dense)


def make_bert(vocabulary: Vocabulary, n_blocks: int = 3, width: int = 16, seed: int = 0):
    """Random stock BertModel whose biases and layer norms are jittered, so that a mistake shows."""
    import torch
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=vocabulary.n_tokens,
        hidden_size=width,
        num_hidden_layers=n_blocks,
        num_attention_heads=4,
        intermediate_size=2 * width,
        max_position_embeddings=vocabulary.n_positions,
        hidden_act="relu",
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    bert = BertModel(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return bert


def make_model(
    *, special: bool = False, n_genes: int = 40, input_size: int = 16, n_blocks: int = 3, two_times: bool = False
):
    """Random model in memory, with the vocabulary of :func:`make_vocabulary`, or that of two time points."""
    from pathlib import Path

    import torch

    from scgeneformer._engine.encoder import use_own_kernels
    from scgeneformer._engine.two_time_points import reads_two_times
    from scgeneformer.models import Model

    vocabulary = make_vocabulary(n_genes, special=special, input_size=input_size)
    vocabulary = reads_two_times(vocabulary) if two_times else vocabulary
    bert = use_own_kernels(make_bert(vocabulary, n_blocks)).requires_grad_(False)
    return Model("toy", "tests", "", "0" * 64, vocabulary, bert, torch.device("cpu"), torch.float32, Path())


def embed_toys() -> np.ndarray:
    """Embeddings of :func:`make_adata` by :func:`make_model`, in a function that other processes can import."""
    import scgeneformer as gf

    with gf.settings.override(progress=False):
        gf.tl.embed_cells(adata := make_adata(), make_model())
    gf.models.cache_info()
    return adata.obsm["X_geneformer"]


def quick_umap(put=setattr):
    """Let scanpy place points by forces between neighbors: to import umap takes 15 s of compilation in each process.

    `put` sets an attribute of a module, as that of `monkeypatch` does.
    """
    from functools import partial

    import scanpy as sc

    def umap(adata, *, random_state=0, neighbors_key=None):
        sc.tl.draw_graph(adata, layout="fr", random_state=random_state, neighbors_key=neighbors_key)
        adata.obsm["X_umap"] = adata.obsm.pop("X_draw_graph_fr")

    put(sc.pp, "neighbors", partial(sc.pp.neighbors, method="gauss"))
    put(sc.tl, "umap", umap)


class Stop(BaseException):
    """What a kill looks like from inside."""
