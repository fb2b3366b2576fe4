"""A pretrained model with another vocabulary: which rows of its embeddings the new tokens begin with.

Genes that both know keep their rows, whatever their tokens. A gene may begin with the row of its ortholog in another
species. All others begin with the mean of all genes: their logits are then near the mean logit, so that what the model
predicted before changes little (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch

from scgeneformer._engine.genes import match_genes
from scgeneformer._engine.masked_head import MaskedHead
from scgeneformer._errors import DataError, ModelError
from scgeneformer._training.encoder import new_encoder

if TYPE_CHECKING:
    from transformers import BertModel

    from scgeneformer._engine.vocabulary import Vocabulary


@dataclass(frozen=True, eq=False)
class Transfer:
    """Where the rows of the new embeddings come from.

    Parameters
    ----------
    weights
        Share of each row of the model in each new row, (n_tokens, n_tokens of the model) CSR float32; every row of it
        adds up to 1.
    n_same, n_orthologs, n_new
        Genes that the model knows, that begin with orthologs, and all others.
    n_left
        Genes of the model that the vocabulary does not have.
    """

    weights: sp.csr_matrix
    n_same: int
    n_orthologs: int
    n_new: int
    n_left: int

    def rows(self, old: torch.Tensor) -> torch.Tensor:
        """New rows, (n_tokens, ...) float32, from those of the model, (n_tokens of the model, ...)."""
        flat = old.detach().float().reshape(len(old), -1).numpy()
        return torch.from_numpy(self.weights @ flat).reshape(-1, *old.shape[1:])


def find_transfer(vocabulary: Vocabulary, known: Vocabulary, orthologs: Any = None) -> Transfer:
    """Match the tokens of a vocabulary with those of a model: by name the special ones, genes by their Ensembl ID.

    Parameters
    ----------
    vocabulary
        The new one.
    known
        That of the model.
    orthologs
        Gene of the new vocabulary -> gene of the model, as :func:`read_orthologs` takes them; of genes that the model
        does not know itself.

    Raises
    ------
    DataError
        If `orthologs` cannot be read, or none of them leads from the vocabulary to the model.
    ModelError
        If the two share no gene.
    """
    n_old = known.n_tokens
    same = {t: known.special[name] for name, t in vocabulary.special.items() if name in known.special}
    of_gene = {t: known.token_of_id[gene] for gene, t in vocabulary.token_of_id.items() if gene in known.token_of_id}
    pairs = [(new, old) for new, old in _ortholog_tokens(vocabulary, known, orthologs) if new not in of_gene]
    if not of_gene and not pairs:
        raise ModelError(
            f"The vocabulary ({', '.join(vocabulary.ensembl_ids[:3])}, ...) and the model "
            f"({', '.join(known.ensembl_ids[:3])}, ...) share no gene. Name orthologs, orthologs={{gene of the "
            "vocabulary: gene of the model, ...}, or train from scratch: leave model= out."
        )
    new, old = np.array([*same.items(), *of_gene.items(), *pairs]).T
    shape = (vocabulary.n_tokens, n_old)
    found = sp.csr_matrix((np.ones(len(new), np.float32), (new, old)), shape=shape)
    found.data[:] = 1.0  # a pair that was named twice counts once
    counts = np.asarray(found.sum(axis=1)).ravel()
    orphans = np.flatnonzero(counts == 0)
    mean = np.zeros((1, n_old), dtype=np.float32)
    mean[0, known.tokens] = 1 / len(known.tokens)
    spread = sp.csr_matrix((np.ones(len(orphans), np.float32), (orphans, np.zeros_like(orphans))), shape=(shape[0], 1))
    weights = sp.diags_array(1 / np.maximum(counts, 1), dtype=np.float32) @ found + spread @ sp.csr_matrix(mean)
    n_orthologs = len({gene for gene, _ in pairs})
    n_new, n_left = len(vocabulary.tokens) - len(of_gene) - n_orthologs, len(known.tokens) - len(of_gene)
    return Transfer(sp.csr_matrix(weights), len(of_gene), n_orthologs, n_new, n_left)


def read_orthologs(orthologs: Any) -> list[tuple[str, str]]:
    """Pairs of a gene of the new vocabulary and a gene of the model; a gene may have several.

    Parameters
    ----------
    orthologs
        A dictionary of genes to a gene or a list of genes, a Series whose index are the new genes, or a DataFrame whose
        first two columns are both. Missing values are left out.
    """
    if isinstance(orthologs, pd.DataFrame):
        if orthologs.shape[1] < 2:
            raise DataError("orthologs= must have two columns: the gene of the vocabulary, and the gene of the model.")
        table = pd.Series(orthologs.iloc[:, 1].to_numpy(), index=orthologs.iloc[:, 0].to_numpy())
    elif isinstance(orthologs, pd.Series):
        table = orthologs
    elif isinstance(orthologs, Mapping):
        table = pd.Series(list(orthologs.values()), index=list(orthologs), dtype=object)
    else:
        raise DataError(
            f"orthologs= is a {type(orthologs).__name__}. Give a dictionary, Series or DataFrame of genes of the "
            "vocabulary and genes of the model."
        )
    table = table.explode()
    table = table[table.notna().to_numpy() & table.index.notna()]
    return list(zip(table.index.astype(str), table.astype(str), strict=True))


def _ortholog_tokens(vocabulary: Vocabulary, known: Vocabulary, orthologs: Any) -> list[tuple[int, int]]:
    if orthologs is None:
        return []
    pairs = read_orthologs(orthologs)
    new = match_genes([gene for gene, _ in pairs], vocabulary)
    old = match_genes([gene for _, gene in pairs], known)
    if not ((new >= 0) & (old >= 0)).any():
        example = f" The first pair is {pairs[0][0]!r} -> {pairs[0][1]!r}." if pairs else ""
        ours, theirs = str(vocabulary.ensembl_ids[0]), str(known.ensembl_ids[0])
        raise DataError(
            f"orthologs= names {int((new >= 0).sum())} genes of the vocabulary (such as {ours!r}) and "
            f"{int((old >= 0).sum())} of the model (such as {theirs!r}), but no pair of both.{example} It must lead "
            "from genes of the vocabulary to genes of the model."
        )
    return [(int(a), int(b)) for a, b in zip(new, old, strict=True) if a >= 0 and b >= 0]


def transferred(bert: BertModel, head: MaskedHead, transfer: Transfer, pad: int) -> tuple[BertModel, MaskedHead]:
    """The encoder and its head with the new tokens; all other weights are the same.

    Parameters
    ----------
    bert, head
        Those of the model, on the CPU.
    transfer
        Where the new rows come from.
    pad
        Token of ``<pad>``.
    """
    n_tokens = transfer.weights.shape[0]
    fresh = new_encoder(bert.config, vocab_size=n_tokens, pad_token_id=pad)
    name = "embeddings.word_embeddings.weight"
    weights = {key: tensor.float() for key, tensor in bert.state_dict().items()}
    fresh.load_state_dict({**weights, name: transfer.rows(weights[name])})
    tensors = {key: tensor.float() for key, tensor in head.state_dict().items()}
    fitting = MaskedHead(fresh.config)
    fitting.load_state_dict({**tensors, "bias": transfer.rows(tensors["bias"])})
    return fresh, fitting
