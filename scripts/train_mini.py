"""Train `mini`, the small Geneformer inside the package, from a folder of h5ad files with raw counts.

    python scripts/train_mini.py DATA OUT --steps 1500

Self-supervised throughout; cell types only keep the held-out cells balanced. Two losses on the same batches:

- masked genes, as in Geneformer: 15 % of the genes of a cell are hidden and predicted from the others;
- paired halves: the molecules of a cell are split into two disjoint halves, each thinned to a random depth and cut to
  a random gene panel, and the mean hidden state of one half (second to last layer, the cell embedding) must single out
  the other half among the cells of the batch (InfoNCE, van den Oord et al. 2018). The halves share the cell's state but
  not its sampling noise, which is what an embedding should keep and lose.

Gene embeddings start from a truncated SVD of the training cells, position embeddings from smooth functions of the rank.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import platform
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from sklearn.utils.extmath import randomized_svd
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM

from scgeneformer._engine.encoder import use_own_kernels
from scgeneformer._engine.packing import Packed, pack
from scgeneformer._engine.ranking import rank_value_encode
from scgeneformer._engine.tokens import Tokens, concatenate
from scgeneformer._engine.vocabulary import Vocabulary, write_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator

# File, licence of its source, origin; from the oldest gene annotation to the newest.
SOURCES = {
    "brain_cortex_darmanis": ("MIT", "Darmanis et al. 2015, human temporal cortex, GSE67835"),
    "pbmc3k": ("MIT", "10x Genomics, 3k PBMC of a healthy donor"),
    "pbmc_facs_zheng17": ("BSD-2-Clause", "Zheng et al. 2017, bead-purified PBMC subsets"),
    "lung_cell_lines_mixology": ("MIT", "Tian et al. 2019, lung cancer cell lines, GSE118767"),
    "tcell_citeseq_trex": ("MIT", "sorted T cells of one COVID-19 patient"),
}
SPECIAL = {"<pad>": 0, "<mask>": 1}
FIRST_GENE = len(SPECIAL)
INPUT_SIZE, TARGET_SUM = 2048, 10_000.0
MIN_CELLS = 3  # training cells in which a gene must be seen
HELD_OUT = 0.1
MASKED = 0.15
START_SCALE = 4.0  # of the embeddings, in usual initial spreads: the tied output layer then starts at a useful scale
WARM_UP, LEVEL_UNTIL = 40, 200  # steps


@dataclass(frozen=True)
class Corpus:
    """Cells of several data sets over one vocabulary.

    Parameters
    ----------
    counts
        Counts, (n_cells, n_genes) CSR, columns in the order of the vocabulary.
    sets
        Number of the data set of each cell.
    """

    counts: sp.csr_matrix
    sets: np.ndarray


# ---------------------------------------------------------------------------------------------------- data, vocabulary


def held_out(adata: ad.AnnData, seed: int) -> np.ndarray:
    """Choose the cells that are never trained on: a tenth of each cell type, (n_obs,) bool."""
    rng = np.random.default_rng([seed, adata.n_obs])
    strata = adata.obs["cell_type"].astype(str) if "cell_type" in adata.obs else pd.Series("all", adata.obs_names)
    chosen = np.zeros(adata.n_obs, dtype=bool)
    for name in sorted(strata.unique()):
        members = np.flatnonzero(strata == name)
        chosen[rng.permutation(members)[: round(HELD_OUT * len(members))]] = True
    return chosen


def gene_ids(var: pd.DataFrame) -> np.ndarray:
    """Ensembl ID of each column, the newer one where an ID was replaced; empty for genes outside the vocabularies."""
    newer = var["ensembl_id_v2map"].astype(str).where(var["in_v2_vocab"], "")
    older = var["ensembl_id"].astype(str).where(var["in_v1_vocab"], "")
    return newer.where(newer != "", older).to_numpy(str)


def merge_renumbered(columns: list[np.ndarray], tables: list[pd.DataFrame]) -> list[np.ndarray]:
    """Give genes that only the older vocabulary knows the newer ID of the same symbol, where another set has one."""
    newer, merged = {}, []
    for column, var in zip(columns, tables, strict=True):
        known = (var["in_v2_vocab"] & (var["symbol"].astype(str) != "")).to_numpy()
        newer |= dict(zip(var["symbol"].astype(str).to_numpy()[known], column[known], strict=True))
    current = set(newer.values())
    for column, var in zip(columns, tables, strict=True):
        here = set(column)  # a set that lists both IDs means two genes
        candidates = [newer.get(symbol, "") for symbol in var["symbol"].astype(str)]
        pairs = zip(column, candidates, strict=True)
        outdated = [bool(old and new) and old not in current and new not in here for old, new in pairs]
        merged.append(np.where(outdated, candidates, column))
    return merged


def sum_by_token(counts: sp.csr_matrix, tokens: np.ndarray, n_genes: int) -> sp.csr_matrix:
    """Sum the columns that share a token, (n_cells, n_genes); tokens below `FIRST_GENE` are dropped."""
    known = np.flatnonzero(tokens >= FIRST_GENE)
    ones = np.ones(len(known), dtype=counts.dtype)
    indicator = sp.csr_matrix((ones, (known, tokens[known] - FIRST_GENE)), shape=(counts.shape[1], n_genes))
    summed = (counts @ indicator).tocsr()
    summed.eliminate_zeros()
    summed.sort_indices()
    return summed


def choose_symbols(
    columns: list[np.ndarray], tables: list[pd.DataFrame], ids: np.ndarray
) -> tuple[dict[str, str], dict[str, str]]:
    """One symbol per gene, the commonest and among equals the newest, and the other names as aliases.

    Parameters
    ----------
    columns
        Ensembl ID of each column of each data set.
    tables
        `var` of each data set, from the oldest annotation to the newest.
    ids
        Genes of the vocabulary.

    Returns
    -------
    symbols
        Ensembl ID -> symbol; no symbol occurs twice, whatever its case.
    aliases
        Upper-case other symbol or former ID -> Ensembl ID; none of them is a symbol, or stands for two genes.
    """
    kept, votes, former = set(ids), defaultdict(Counter), defaultdict(set)
    for age, (column, var) in enumerate(zip(columns, tables, strict=True)):
        table = zip(column, var["symbol"].astype(str), var["ensembl_id"].astype(str), strict=True)
        for gene, symbol, native in table:
            if gene in kept:
                if symbol not in ("", "nan") and not symbol.upper().startswith("ENSG"):
                    votes[gene][symbol] += 1 + age * 1e-3
                if native.upper() not in kept and native.startswith("ENSG"):
                    former[native.upper()].add(gene)
    symbols, owner = {}, {}
    flat = ((n, gene, symbol) for gene, counter in votes.items() for symbol, n in counter.items())
    ranked = sorted(flat, key=lambda vote: (-vote[0], vote[1], vote[2]))
    for _, gene, symbol in ranked:
        if gene not in symbols and symbol.upper() not in owner:
            symbols[gene], owner[symbol.upper()] = symbol, gene
    for _, gene, symbol in ranked:
        former[symbol.upper()].add(gene)
    aliases = {
        name: next(iter(genes))
        for name, genes in former.items()
        if len(genes) == 1 and name not in owner and name not in kept
    }
    return symbols, aliases


def nonzero_medians(counts: sp.csr_matrix, totals: np.ndarray) -> np.ndarray:
    """Exact median of the non-zero counts per `TARGET_SUM` of each gene, six significant digits."""
    scaled = (sp.diags(TARGET_SUM / totals) @ counts.astype(np.float64)).tocsc()
    columns = (scaled.data[a:b] for a, b in zip(scaled.indptr[:-1], scaled.indptr[1:], strict=True))
    return np.array([float(f"{np.median(column):.6g}") for column in columns])


def read_corpus(folder: Path, seed: int) -> tuple[Vocabulary, Corpus, Corpus, list[dict]]:
    """Read the training sets, build the vocabulary from the training cells, and split off the held-out cells.

    Returns
    -------
    The vocabulary, the training cells, the held-out cells, and a record of the data sets.
    """
    sets = {name: ad.read_h5ad(folder / f"{name}.h5ad") for name in SOURCES}
    held = [held_out(adata, seed) for adata in sets.values()]
    tables = [adata.var for adata in sets.values()]
    columns = merge_renumbered([gene_ids(var) for var in tables], tables)
    ids = np.array(sorted(set(np.concatenate(columns)) - {""}))
    blocks = []
    for adata, column in zip(sets.values(), columns, strict=True):
        tokens = np.where(column != "", np.searchsorted(ids, column) + FIRST_GENE, -1)
        blocks.append(sum_by_token(sp.csr_matrix(adata.X), tokens, len(ids)))
    counts, held = sp.vstack(blocks, format="csr"), np.concatenate(held)
    totals = np.concatenate([np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel() for adata in sets.values()])
    number = np.repeat(np.arange(len(sets)), [adata.n_obs for adata in sets.values()])

    seen = np.asarray((counts[~held] > 0).sum(axis=0)).ravel() >= MIN_CELLS
    ids, counts = ids[seen], counts[:, seen]
    symbols, aliases = choose_symbols(columns, tables, ids)
    vocabulary = Vocabulary(
        tokens=np.arange(len(ids), dtype=np.int32) + FIRST_GENE,
        ensembl_ids=ids,
        symbols=np.array([symbols.get(gene, "") for gene in ids]),
        medians=nonzero_medians(counts[~held], totals[~held]),
        special=SPECIAL,
        input_size=INPUT_SIZE,
        aliases=aliases,
        target_sum=TARGET_SUM,
    )
    record = [
        {
            "file": f"{name}.h5ad",
            "sha256": hashlib.sha256((folder / f"{name}.h5ad").read_bytes()).hexdigest(),
            "source": origin,
            "licence_of_source": licence,
            "cells_trained_on": int((~held[number == k]).sum()),
            "cells_held_out": int(held[number == k].sum()),
        }
        for k, (name, (licence, origin)) in enumerate(SOURCES.items())
    ]
    return vocabulary, Corpus(counts[~held], number[~held]), Corpus(counts[held], number[held]), record


# --------------------------------------------------------------------------------------------------------------- model


def gene_vectors(corpus: Corpus, width: int, seed: int) -> np.ndarray:
    """Co-expression vectors of the genes, (n_genes, width): SVD of standardised log expression, set by set.

    Every data set weighs the same, and within each gene is centred by set, so that what counts is how genes vary
    together between cells, not which laboratory saw them.
    """
    scale = sp.diags(TARGET_SUM / np.asarray(corpus.counts.sum(axis=1)).ravel())
    logged = (scale @ corpus.counts.astype(np.float32)).log1p().tocsr()
    parts = []
    for number in np.unique(corpus.sets):
        block = logged[corpus.sets == number].toarray()
        block -= block.mean(axis=0)
        block /= block.std(axis=0) + 0.1
        np.clip(block, -8, 8, out=block)
        parts.append(block / len(block) ** 0.25)
    _, strength, genes = randomized_svd(np.concatenate(parts).astype(np.float32), width, random_state=seed, n_iter=4)
    vectors = genes.T * np.sqrt(strength)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.sqrt(norms * norms.mean() + 1e-12)


def rank_waves(n_positions: int, width: int) -> np.ndarray:
    """Smooth functions of the rank, (n_positions, width): half-periods of the square root of the position."""
    rank = np.sqrt((np.arange(n_positions) + 0.5) / n_positions)
    return np.cos(np.pi * rank[:, None] * np.arange(1, 9)) @ np.random.default_rng(0).normal(size=(8, width))


def initial_model(
    vocabulary: Vocabulary,
    corpus: Corpus | None,
    seed: int,
    width: int = 128,
    feed_forward: int = 256,
    blocks: int = 6,
) -> BertForMaskedLM:
    """Build the model before training; without a corpus all of its weights are random (the untrained control)."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary.n_tokens,
        hidden_size=width,
        num_hidden_layers=blocks,
        num_attention_heads=max(1, width // 32),
        intermediate_size=feed_forward,
        hidden_act="relu",
        max_position_embeddings=INPUT_SIZE,
        type_vocab_size=2,
        layer_norm_eps=1e-12,
        hidden_dropout_prob=0.02,
        attention_probs_dropout_prob=0.0,
        pad_token_id=SPECIAL["<pad>"],
        initializer_range=0.02,
    )
    model = BertForMaskedLM(config)
    if corpus is not None:
        start_from_data(model, corpus, seed)
    use_own_kernels(model.bert)
    return model


@torch.no_grad()
def start_from_data(model: BertForMaskedLM, corpus: Corpus, seed: int) -> None:
    """Put co-expression into the gene embeddings, the rank into the positions, frequencies into the output bias."""
    embeddings, spread = model.bert.embeddings, model.config.initializer_range
    vectors = gene_vectors(corpus, model.config.hidden_size, seed)
    words = embeddings.word_embeddings.weight
    words[FIRST_GENE:] = 0.3 * words[FIRST_GENE:] + torch.from_numpy(vectors * (spread / vectors.std())).float()
    words *= START_SCALE
    waves = rank_waves(INPUT_SIZE, model.config.hidden_size)
    embeddings.position_embeddings.weight.copy_(torch.from_numpy(waves * (0.5 * START_SCALE * spread / waves.std())))
    frequency = np.asarray((corpus.counts > 0).sum(axis=0)).ravel() / corpus.counts.nnz
    model.cls.predictions.bias[FIRST_GENE:] = torch.from_numpy(np.log(frequency)).float()
    model.cls.predictions.bias[:FIRST_GENE] = float(np.log(frequency.min()))


# ------------------------------------------------------------------------------------------------------------- batches


@dataclass(frozen=True)
class Batch:
    """Cells of one step: the two views of `n_pairs` cells (first views, then second views), then whole cells."""

    packed: Packed
    masked: torch.Tensor  # positions with something to predict
    targets: torch.Tensor  # their genes
    visible: torch.Tensor  # positions that do not hold <mask>
    n_pairs: int

    def to(self, device: torch.device) -> Batch:
        """Copy to a device."""
        where, what = self.packed, (self.masked, self.targets, self.visible)
        packed = Packed(*(t.to(device) for t in (where.ids, where.positions, where.offsets)), where.lengths)
        return Batch(packed, *(t.to(device) for t in what), self.n_pairs)


def thin(counts: sp.csr_matrix, rates: np.ndarray, rng: np.random.Generator) -> sp.csr_matrix:
    """Keep each molecule of row `i` with probability ``rates[i]``."""
    kept = rng.binomial(counts.data.astype(np.int64), np.repeat(rates, np.diff(counts.indptr)))
    return sp.csr_matrix((kept.astype(np.float32), counts.indices, counts.indptr), shape=counts.shape)


def keep_panel(counts: sp.csr_matrix, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    """Zero all genes outside a random panel that holds `share` of the genes."""
    panel = rng.random(counts.shape[1]) < share
    return sp.csr_matrix((counts.data * panel[counts.indices], counts.indices, counts.indptr), shape=counts.shape)


def two_views(counts: sp.csr_matrix, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Split the molecules of each cell into disjoint halves, each of a random depth and mostly of a random panel."""
    first = thin(counts, rng.uniform(0.3, 0.7, counts.shape[0]), rng)
    second = sp.csr_matrix((counts.data - first.data, counts.indices, counts.indptr), shape=counts.shape)
    return vary(first, rng), vary(second, rng)


def vary(view: sp.csr_matrix, rng: np.random.Generator) -> sp.csr_matrix:
    """Thin to a random depth (500 molecules to all of them) and cut to a random gene panel."""
    totals = np.maximum(np.asarray(view.sum(axis=1)).ravel(), 1)
    depth = np.exp(rng.uniform(np.log(500), np.log(np.maximum(totals, 1000) * 2)))
    view = thin(view, np.minimum(1.0, depth / totals), rng)
    return keep_panel(view, rng.uniform(0.15, 1.0), rng) if rng.random() < 0.5 else view


def encode(counts: sp.csr_matrix, vocabulary: Vocabulary, longest: int) -> Tokens:
    """Rank-value encode and keep at most `longest` genes of each cell."""
    tokens, _ = rank_value_encode(counts, vocabulary.tokens, vocabulary)
    return Tokens.from_lists(tokens[i][:longest] for i in range(len(tokens)))


def hide(tokens: Tokens, n_tokens: int, n_pairs: int, rng: np.random.Generator) -> Batch:
    """Mask genes: 15 % chosen, of which 80 % become <mask>, 10 % a random gene, 10 % stay."""
    ids, fate = tokens.ids.copy(), rng.random(len(tokens.ids)) / MASKED
    chosen = np.flatnonzero(fate < 1)
    ids[fate < 0.8] = SPECIAL["<mask>"]
    swapped = (fate >= 0.8) & (fate < 0.9)
    ids[swapped] = rng.integers(FIRST_GENE, n_tokens, swapped.sum())
    return Batch(
        packed=pack(Tokens(ids, tokens.offsets)),
        masked=torch.from_numpy(chosen),
        targets=torch.from_numpy(tokens.ids[chosen].astype(np.int64)),
        visible=torch.from_numpy(fate >= 0.8),
        n_pairs=n_pairs,
    )


def draw_batch(corpus: Corpus, vocabulary: Vocabulary, options: argparse.Namespace, rng: np.random.Generator) -> Batch:
    """Draw a batch: pairs of views of cells of one data set, and whole cells of any set."""
    sizes = np.bincount(corpus.sets)
    share = sizes**0.7 / (sizes**0.7).sum()
    members = np.flatnonzero(corpus.sets == rng.choice(len(sizes), p=share))
    cells = rng.choice(members, size=min(options.pairs, len(members)), replace=False)
    longest = int(rng.choice([192, 320, 512], p=[0.3, 0.4, 0.3]))
    first, second = (encode(view, vocabulary, longest) for view in two_views(corpus.counts[cells], rng))
    usable = np.flatnonzero((first.lengths >= 16) & (second.lengths >= 16))
    whole = rng.choice(len(corpus.sets), size=options.whole, replace=False, p=(share / sizes)[corpus.sets])
    rest = encode(corpus.counts[whole], vocabulary, int(rng.choice([768, INPUT_SIZE], p=[0.8, 0.2])))
    tokens = concatenate([first.take(usable), second.take(usable), rest])
    return hide(tokens, vocabulary.n_tokens, len(usable), rng)


def ahead(
    corpus: Corpus, vocabulary: Vocabulary, options: argparse.Namespace, rng: np.random.Generator
) -> Iterator[Batch]:
    """Draw batches without end; the next one in a thread, while the model learns from the one before."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(draw_batch, corpus, vocabulary, options, rng)
        while True:
            batch = coming.result()
            coming = pool.submit(draw_batch, corpus, vocabulary, options, rng)
            yield batch


# -------------------------------------------------------------------------------------------------------------- losses


def run_blocks(model: BertForMaskedLM, packed: Packed) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states of the second to last and of the last layer, (total, width) each."""
    hidden = model.bert.embeddings(input_ids=packed.ids, position_ids=packed.positions)
    before = hidden
    for block in model.bert.encoder.layer:
        before = hidden
        hidden = block(hidden, None, packed=packed)
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
    return before[0], hidden[0]


def pooled(states: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean over the visible genes of each cell, (n_cells, width)."""
    lengths = torch.tensor(batch.packed.lengths, device=states.device)
    cell = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)[batch.visible]
    sums = states.new_zeros(len(lengths), states.shape[1], dtype=torch.float32)
    sums = sums.index_add(0, cell, states[batch.visible].float())
    return sums / torch.bincount(cell, minlength=len(lengths)).clamp(min=1)[:, None]


def pair_loss(cells: torch.Tensor, n_pairs: int, temperature: float) -> torch.Tensor:
    """InfoNCE between the first and second views, on centred cosines."""
    first, second = (
        F.normalize(view - view.mean(0), dim=1) for view in (cells[:n_pairs], cells[n_pairs : 2 * n_pairs])
    )
    similarity = first @ second.T / temperature
    own = torch.arange(n_pairs, device=cells.device)
    return (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2


def losses(model: BertForMaskedLM, batch: Batch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Masked-gene loss and paired-halves loss of a batch."""
    batch = batch.to(model.device)
    with torch.autocast(model.device.type, torch.bfloat16):
        before, last = run_blocks(model, batch.packed)
        scores = model.cls(last[batch.masked])
    genes = F.cross_entropy(scores.float(), batch.targets)
    pairs = pair_loss(pooled(before, batch), batch.n_pairs, temperature) if batch.n_pairs else genes.new_zeros(())
    return genes, pairs


@torch.no_grad()
def held_out_losses(model: BertForMaskedLM, corpus: Corpus, vocabulary: Vocabulary, seed: int) -> dict[str, float]:
    """Masked-gene loss on every 4th held-out cell, by gene, and paired-halves loss on 32 cells (or all) of each set."""
    rng, genes, pairs = np.random.default_rng(seed), [], []
    whole = np.arange(0, len(corpus.sets), 4)
    for some in np.array_split(whole, len(whole) // 16):
        batch = hide(encode(corpus.counts[some], vocabulary, INPUT_SIZE), vocabulary.n_tokens, 0, rng)
        genes.append((float(losses(model, batch, 0.1)[0]), len(batch.masked)))
    for number in np.unique(corpus.sets):
        some = rng.permutation(np.flatnonzero(corpus.sets == number))[:32]
        views = [encode(view, vocabulary, 512) for view in two_views(corpus.counts[some], rng)]
        batch = hide(concatenate(views), vocabulary.n_tokens, len(some), rng)
        pairs.append(float(losses(model, batch, 0.1)[1]))
    loss, weight = np.array(genes).T
    means = {"masked_genes": np.average(loss, weights=weight), "paired_halves": np.mean(pairs)}
    return {f"held_out_{name}": round(float(mean), 4) for name, mean in means.items()}


# ------------------------------------------------------------------------------------------------------------ training


def optimiser(model: BertForMaskedLM, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW; weight decay on matrices only.

    Embeddings get a larger epsilon: the softmax over the vocabulary pushes all rare
    genes the same way, and Adam would make full steps of these tiny gradients, away from the co-expression start.
    """
    named = list(model.named_parameters())
    embedded = [p for name, p in named if "embeddings" in name and p.ndim == 2]
    matrices = [p for name, p in named if "embeddings" not in name and p.ndim == 2]
    groups = [
        {"params": matrices, "weight_decay": decay},
        {"params": embedded, "eps": 1e-5},
        {"params": [p for _, p in named if p.ndim != 2]},
    ]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0)


def pace(step: int) -> float:
    """Share of the highest learning rate: linear warm-up, level, then 1 / sqrt; does not depend on the end."""
    return min((step + 1) / WARM_UP, 1.0, math.sqrt(LEVEL_UNTIL / (step + 1)))


@torch.no_grad()
def follow(average: BertForMaskedLM, model: BertForMaskedLM, step: int) -> None:
    """Move the running average of the weights; it takes the place of decaying the learning rate to zero."""
    share = 1 - min(0.985, (step + 1) / (step + 10))
    for mean, now in zip(average.parameters(), model.parameters(), strict=True):
        mean.lerp_(now, share)


def train(
    model: BertForMaskedLM, corpus: Corpus, held: Corpus, vocabulary: Vocabulary, options: argparse.Namespace
) -> Iterator[tuple[BertForMaskedLM, dict]]:
    """Train in place; at every report yields the averaged model and the record of the run so far."""
    rng, start = np.random.default_rng(options.seed), time.monotonic()
    adam = optimiser(model, options.rate, options.decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, pace)
    model.eval()  # no dropout: masks, depths and panels are noise enough, and it is faster
    average = copy.deepcopy(model)
    curve, recent, n_tokens = [{"step": 0, **held_out_losses(model, held, vocabulary, 0)}], [], 0
    print(json.dumps(curve[0]), flush=True)
    for step, batch in zip(range(1, options.steps + 1), ahead(corpus, vocabulary, options, rng), strict=False):
        genes, pairs = losses(model, batch, options.temperature)
        (genes + options.pair_weight * pairs).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad()
        follow(average, model, step - 1)
        n_tokens += batch.packed.n_tokens
        recent.append(torch.stack([genes, pairs]).detach())
        minutes = (time.monotonic() - start) / 60
        last = step == options.steps or minutes > options.minutes
        if last or step % options.report == 0:
            mean, recent = torch.stack(recent).mean(dim=0).tolist(), []
            point = {"step": step, "tokens": n_tokens, "minutes": round(minutes, 1)}
            point |= {"train_masked_genes": round(mean[0], 4), "train_paired_halves": round(mean[1], 4)}
            point |= held_out_losses(average, held, vocabulary, 0)
            print(json.dumps(point), flush=True)
            curve.append(point)
            yield average, {"steps": step, "tokens": n_tokens, "minutes": point["minutes"], "curve": list(curve)}
        if last:
            return


def save(model: BertForMaskedLM, vocabulary: Vocabulary, folder: Path) -> None:
    """Write `config.json`, float16 weights and the vocabulary in the layout that the package reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model = copy.deepcopy(model).cpu().half()
    model.config._attn_implementation = "sdpa"
    model.save_pretrained(folder)
    write_vocabulary(vocabulary, folder)
    (folder / "model.safetensors").chmod(0o644)


def hardware(options: argparse.Namespace) -> str:
    """What the model was trained on."""
    if options.device == "cpu":
        return f"{options.threads} shared CPU cores ({platform.machine()} with bfloat16 instructions)"
    return torch.cuda.get_device_name(options.device)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with the h5ad files named in SOURCES")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--steps", type=int, default=1500, help="the schedule does not depend on it")
    parser.add_argument("--minutes", type=float, default=math.inf, help="end earlier, after so much time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pairs", type=int, default=32, help="cells per step that are seen as two halves")
    parser.add_argument("--whole", type=int, default=4, help="whole cells per step")
    parser.add_argument("--pair-weight", type=float, default=1.0)
    parser.add_argument("--temperature", type=float, default=0.1)
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    parser.add_argument("--decay", type=float, default=0.01, help="weight decay")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--feed-forward", type=int, default=256)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", type=int, default=50, help="steps between two reports, each with a save")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def main() -> None:
    """Read, train, save."""
    options = arguments()
    torch.set_num_threads(options.threads)
    vocabulary, corpus, held, data = read_corpus(options.data, options.seed)
    print(f"{len(vocabulary.tokens)} genes, {len(corpus.sets)} + {len(held.sets)} cells", flush=True)
    model = initial_model(vocabulary, corpus, options.seed, options.width, options.feed_forward, options.blocks)
    model.to(options.device)
    unset = ("data", "out", "report", "threads", "steps", "minutes", "device")
    vocabulary.record.update(
        name="mini",
        licence="BSD-3-Clause",
        recipe="scripts/train_mini.py",
        settings={k: v for k, v in vars(options).items() if k not in unset},
        hardware=hardware(options),
        data=data,
    )
    for average, run in train(model, corpus, held, vocabulary, options):
        vocabulary.record.update(run)
        save(average, vocabulary, options.out)


if __name__ == "__main__":
    main()
