"""Evaluate a model made by `train_mini.py` on cells that it has not seen, beside PCA, random genes, untrained models.

    python scripts/evaluate_mini.py DATA MODEL [--write]

Per data set and embedding: purity of the 15 nearest neighbours (share with the cell's own label), and 5-fold balanced
accuracy of a 15-nearest-neighbour vote and of logistic regression. With `--write` the table goes into `geneformer.json`
and into `README.md` of the model.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
import torch
import train_mini
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from transformers import BertForMaskedLM

from scgeneformer._engine.encoder import hidden_states, use_own_kernels
from scgeneformer._engine.packing import batches, pack
from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.vocabulary import META_FILE, Vocabulary, read_vocabulary, write_vocabulary

# Data set, label, and whether only the held-out cells are used; whole sets were never trained on.
TASKS = [
    ("pbmc68k_reduced_counts", "cell_type", False),
    ("pbmc68k_reduced_counts", "cluster", False),
    ("kang18_ifnb_2k", "cell_type", False),
    ("kang18_ctrl_5donors", "cell_type", False),
    ("ipsc_cardiac_day2_day5_recovered", "cluster", False),
    ("pbmc3k", "cell_type", True),
    ("pbmc_facs_zheng17", "cell_type_fine", True),
    ("lung_cell_lines_mixology", "cell_type", True),
    ("brain_cortex_darmanis", "cell_type", True),
]
NEIGHBOURS, FOLDS, SEED = 15, 5, 0
MARKS = ("<!-- evaluation -->", "<!-- /evaluation -->")


def tokens_of_genes(var: pd.DataFrame, vocabulary: Vocabulary) -> np.ndarray:
    """Token of each column by Ensembl ID (either of the two), else by symbol; -1 where there is none."""
    names = vocabulary.token_of_name
    columns = [var[c].astype(str).str.upper() for c in ("ensembl_id", "ensembl_id_v2map", "symbol")]
    return np.array([next((names[n] for n in row if n in names), -1) for row in zip(*columns, strict=True)])


@torch.inference_mode()
def embed(model: BertForMaskedLM, adata: ad.AnnData, vocabulary: Vocabulary, layers: list[int]) -> dict:
    """Mean over the tokens of each cell, by hidden layer, (n_obs, width) each."""
    tokens = tokens_of_genes(adata.var, vocabulary)
    counts = train_mini.sum_by_token(sp.csr_matrix(adata.X), tokens, len(vocabulary.tokens))
    cells, _ = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    means = {layer: np.zeros((adata.n_obs, model.config.hidden_size)) for layer in layers}
    for start, stop in batches(cells.lengths, 20_000):
        packed = pack(cells.slice(start, stop))
        depths = [layer % (model.config.num_hidden_layers + 1) for layer in layers]
        states = hidden_states(model.bert, packed, depths)
        for layer, depth in zip(layers, depths, strict=True):
            parts = states[depth].split(packed.lengths)
            means[layer][start:stop] = torch.stack([part.mean(0) for part in parts]).numpy()
    return means


def pca(adata: ad.AnnData) -> np.ndarray:
    """The usual 50 principal components, fitted on the cells themselves."""
    copy = ad.AnnData(sp.csr_matrix(adata.X))
    sc.pp.filter_genes(copy, min_cells=3)
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    if copy.n_vars > 2000:
        sc.pp.highly_variable_genes(copy, n_top_genes=2000)
        copy = copy[:, copy.var.highly_variable].copy()
    sc.pp.scale(copy, max_value=10)
    sc.pp.pca(copy, n_comps=min(50, copy.n_obs - 1, copy.n_vars - 1), random_state=SEED)
    return copy.obsm["X_pca"]


def random_genes(adata: ad.AnnData, n_genes: int) -> np.ndarray:
    """Log expression of random genes among those seen in 3 cells, as many as the embedding is wide."""
    copy = ad.AnnData(sp.csr_matrix(adata.X))
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    sc.pp.filter_genes(copy, min_cells=3)
    chosen = np.random.default_rng(SEED).permutation(copy.n_vars)[:n_genes]
    return copy.X[:, chosen].toarray()


def purity(embedding: np.ndarray, labels: np.ndarray) -> float:
    """Share of the nearest neighbours (the cell itself excluded) with the cell's label, mean over cells."""
    finder = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(labels) - 1)).fit(embedding)
    return float((labels[finder.kneighbors(return_distance=False)] == labels[:, None]).mean())


def scores(embedding: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """All three measures."""
    smallest = int(pd.Series(labels).value_counts().min())
    folds = StratifiedKFold(max(2, min(FOLDS, smallest)), shuffle=True, random_state=SEED)
    vote = KNeighborsClassifier(NEIGHBOURS)
    line = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, class_weight="balanced"))
    return {
        "purity": purity(embedding, labels),
        "knn": cross_val_score(vote, embedding, labels, cv=folds, scoring="balanced_accuracy").mean(),
        "logistic": cross_val_score(line, embedding, labels, cv=folds, scoring="balanced_accuracy").mean(),
    }


def read_task(
    folder: Path, name: str, label: str, only_held_out: bool, seed: int, most: int
) -> tuple[ad.AnnData, np.ndarray]:
    """Read the cells of a task, a random `most` of them, that have a label of at least 5 cells."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    if only_held_out:
        adata = adata[train_mini.held_out(adata, seed)].copy()
    if adata.n_obs > most:
        adata = adata[np.sort(np.random.default_rng(SEED).permutation(adata.n_obs)[:most])].copy()
    labels = adata.obs[label].astype(str)
    usable = labels.map(labels.value_counts()).ge(5) & ~labels.isin(["nan", "", "unknown", "Unknown"])
    return adata[usable.to_numpy()].copy(), labels[usable].to_numpy(str)


def evaluate(
    folder: Path,
    tasks: list[tuple[str, str, bool]],
    models: dict[str, tuple[BertForMaskedLM, list[int]]],
    vocabulary: Vocabulary,
    seed: int,
    most: int,
) -> pd.DataFrame:
    """Scores of PCA, of random genes and of the given layers of the given models on the tasks, one row each."""
    rows = []
    for name, label, only_held_out in tasks:
        adata, labels = read_task(folder, name, label, only_held_out, seed, most)
        width = next(iter(models.values()))[0].config.hidden_size
        embeddings = {"PCA 50": pca(adata), "random genes": random_genes(adata, width)}
        for title, (model, layers) in models.items():
            for layer, values in embed(model, adata, vocabulary, layers).items():
                embeddings[f"{title}, layer {layer}"] = values
        about = {"cells": f"{name}{' (held out)' if only_held_out else ''}", "label": label, "n": len(labels)}
        for title, values in embeddings.items():
            rows.append(about | {"embedding": title} | {k: round(v, 3) for k, v in scores(values, labels).items()})
            print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown, one row per task and embedding: purity / k-NN / logistic regression."""
    cell = table[["purity", "knn", "logistic"]].map("{:.2f}".format).agg(" / ".join, axis=1)
    wide = table.assign(cell=cell).pivot_table(
        index="embedding", columns=["cells", "label", "n"], values="cell", aggfunc="first", sort=False
    )
    head = [f"{cells}, {label}, {n} cells" for cells, label, n in wide.columns]
    lines = ["| unseen cells, label | " + " | ".join(wide.index) + " |", "|---" * (len(wide.index) + 1) + "|"]
    lines += [f"| {h} | " + " | ".join(wide[c]) + " |" for h, c in zip(head, wide.columns, strict=True)]
    return "\n".join(lines)


def write(table: pd.DataFrame, folder: Path) -> None:
    """Put the rows into the record, in place of older ones of the same cells, and all between the marks of the card."""
    vocabulary = read_vocabulary(folder)
    earlier = [row for row in vocabulary.record.get("evaluation", []) if row["cells"] not in set(table["cells"])]
    table = pd.DataFrame(earlier + table.to_dict("records"))
    vocabulary.record["evaluation"] = table.to_dict("records")
    write_vocabulary(vocabulary, folder)
    card = folder / "README.md"
    if card.exists():
        before, _, rest = card.read_text(encoding="utf-8").partition(MARKS[0])
        after = rest.partition(MARKS[1])[2]
        card.write_text(f"{before}{MARKS[0]}\n{markdown(table)}\n{MARKS[1]}{after}", encoding="utf-8")


def main() -> None:
    """Evaluate the model beside PCA, the same network untrained, and its starting point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("model", type=Path, help="folder of the model")
    parser.add_argument("--write", action="store_true", help="store the table in the model folder")
    parser.add_argument("--controls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--most", type=int, default=1000, help="cells of a data set at most")
    parser.add_argument("--only", nargs="*", help="data sets, by name; all by default")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    vocabulary = read_vocabulary(options.model)
    model = BertForMaskedLM.from_pretrained(options.model, dtype=torch.float32).eval()
    use_own_kernels(model.bert)
    tasks = [task for task in TASKS if not options.only or task[0] in options.only]
    models = {"mini": (model, [-2, -1, 3])}
    seed = json.loads((options.model / META_FILE).read_text(encoding="utf-8"))["record"]["settings"]["seed"]
    if options.controls:
        _, corpus, _, _ = train_mini.read_corpus(options.data, seed)
        size = {
            "width": model.config.hidden_size,
            "feed_forward": model.config.intermediate_size,
            "blocks": model.config.num_hidden_layers,
        }
        models["untrained"] = (train_mini.initial_model(vocabulary, None, seed, **size).eval(), [-2])
        models["SVD start"] = (train_mini.initial_model(vocabulary, corpus, seed, **size).eval(), [-2])
    table = evaluate(options.data, tasks, models, vocabulary, seed, options.most)
    print(table.groupby("embedding", sort=False)[["purity", "knn", "logistic"]].mean().round(3).to_string())
    if options.write:
        write(table, options.model)


if __name__ == "__main__":
    main()
