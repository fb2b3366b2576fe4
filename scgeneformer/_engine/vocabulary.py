"""The genes a model knows: their tokens, Ensembl IDs, symbols and medians, and the special tokens."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scgeneformer._engine.encodings import Encoding, RankValue, encoding_from_dict, encoding_to_dict
from scgeneformer._engine.genes import is_ensembl, species_of
from scgeneformer._engine.tokens import LAST
from scgeneformer._errors import ModelError
from scgeneformer._foreign import MOST_TEXT, read_bytes, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

GENES_FILE, ALIASES_FILE, META_FILE = "genes.tsv", "aliases.tsv", "geneformer.json"
MOST_TOKENS = 2**20  # arrays over all tokens are made for every call
MOST_LETTERS = 128  # of a gene, in arrays whose entries are all as wide as the longest


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Genes and special tokens of one model.

    Parameters
    ----------
    tokens
        Token of each gene, (n_genes,) int32, ascending.
    ensembl_ids
        Ensembl gene ID of each gene, (n_genes,) str.
    symbols
        Symbol of each gene, (n_genes,) str, empty where none is known.
    medians
        Non-zero median of each gene over the training corpus, in counts per `target_sum`, (n_genes,) float64.
    special
        Special tokens by name, such as ``{"<pad>": 0, "<mask>": 1}``.
    input_size
        Longest sequence the model takes, special tokens included.
    aliases
        Upper-case symbol, alias or former ID -> Ensembl ID, beyond `ensembl_ids` and `symbols`.
    target_sum
        Counts per cell to which the medians refer.
    record
        What else is known about the model (training record, source).
    encoding
        How a cell becomes a sequence of tokens.
    """

    tokens: np.ndarray
    ensembl_ids: np.ndarray
    symbols: np.ndarray
    medians: np.ndarray
    special: dict[str, int]
    input_size: int
    aliases: dict[str, str] = field(default_factory=dict)
    target_sum: float = 10_000.0
    record: dict = field(default_factory=dict)
    encoding: Encoding = field(default_factory=RankValue)

    def __repr__(self) -> str:
        return (
            f"Vocabulary: {len(self.tokens):,} genes, special tokens {' '.join(self.special)}, "
            f"cells of up to {self.input_size:,} tokens, encoding {self.encoding.name}"
        )

    def __post_init__(self) -> None:
        numbers = [*self.tokens.tolist(), *self.special.values()]
        check_tokens(numbers, "The vocabulary")
        if self.encoding.n_times > 1 and not {"<cls>", "<sep>"} <= self.special.keys():
            raise ModelError(f"The encoding {self.encoding.name!r} needs the special tokens <cls> and <sep>.")
        wanted = [context_token(name, value) for name, values in self.encoding.context.items() for value in values]
        if wanted and (missing := [token for token in [*wanted, "<mask>"] if token not in self.special]):
            raise ModelError(f"The context of the encoding needs the special token {missing[0]}.")
        if not self.n_special <= self.input_size <= MOST_TOKENS:
            raise ModelError(
                f"input_size={self.input_size:,} must be from {self.n_special}, the special tokens of a cell, to "
                f"{MOST_TOKENS:,}."
            )
        if not (np.isfinite(self.target_sum) and self.target_sum > 0):
            raise ModelError(f"target_sum={self.target_sum} must be a positive number.")
        if len(set(numbers)) < len(numbers):
            raise ModelError(
                "The vocabulary gives one token to two genes or special tokens. Rebuild it with a token for each."
            )
        if not (np.isfinite(self.medians).all() and (self.medians > 0).all()):
            bad = self.ensembl_ids[~(np.isfinite(self.medians) & (self.medians > 0))]
            raise ModelError(f"Gene medians must be positive numbers; {bad[0]} (of {len(bad)} such genes) has none.")

    @property
    def n_tokens(self) -> int:
        """Number of tokens, special ones included: the rows of the model's embedding matrix."""
        return int(max(self.tokens.max(initial=-1), max(self.special.values(), default=-1))) + 1

    @cached_property
    def species(self) -> frozenset[str]:
        """Every species whose Ensembl IDs are here; several if the vocabulary was extended.

        Where symbols are the IDs, as in those of scGPT, the one that their spelling tells.
        """
        ids = self.ensembl_ids.tolist()
        if ids == self.symbols.tolist():
            return frozenset({species_of(ids) or "human"})
        prefixes = {one.rstrip("0123456789"): one for one in ids}
        return frozenset(found for one in prefixes.values() if is_ensembl(one) and (found := species_of([one])))

    @property
    def cls_token(self) -> int | None:
        """Token put in front of every cell, or None."""
        return self.special.get("<cls>")

    @property
    def eos_token(self) -> int | None:
        """Token put behind every cell, or None."""
        return self.special.get("<eos>")

    @property
    def sep_token(self) -> int | None:
        """Token between two time points, or None."""
        return self.special["<sep>"] if self.encoding.n_times > 1 else None

    @property
    def n_lead(self) -> int:
        """Number of special tokens in front of the genes of a cell: ``<cls>`` and those of the context."""
        return int(self.cls_token is not None) + len(self.encoding.context)

    def tokens_of_context(self, column: str) -> dict[str, int]:
        """Token of each value of a column of the context; ``<mask>`` stands for all others."""
        return {value: self.special[context_token(column, value)] for value in self.encoding.context[column]}

    @property
    def n_trail(self) -> int:
        """Number of special tokens behind the genes of a cell (0 or 1)."""
        return int(self.eos_token is not None)

    @property
    def n_special(self) -> int:
        """Number of special tokens of a cell: in front, behind, and between its time points."""
        return self.n_lead + self.n_trail + self.encoding.n_times - 1

    @property
    def max_genes(self) -> int:
        """Most genes of a cell, at each time point, that fit beside the special tokens."""
        return (self.input_size - self.n_special) // self.encoding.n_times

    def slots(self, tokens: np.ndarray) -> np.ndarray:
        """Place of each token among some genes, (n_tokens,) int64, -1 for all others.

        Of two time points only the genes now have a place: see :meth:`Tokens.slots`.
        """
        slots = np.full(self.n_tokens, -1, dtype=np.int64)
        slots[tokens] = np.arange(len(tokens))
        if self.sep_token is not None:
            slots[self.sep_token] = LAST
        return slots

    @property
    def n_positions(self) -> int:
        """Position embeddings that a model of this vocabulary has at least."""
        return self.encoding.n_positions or self.input_size

    @cached_property
    def median_of_token(self) -> np.ndarray:
        """Median by token, (n_tokens,) float64, NaN for special tokens."""
        medians = np.full(self.n_tokens, np.nan)
        medians[self.tokens] = self.medians
        return medians

    @cached_property
    def checksum(self) -> str:
        """SHA-256 of all that decides how a cell is encoded: genes, medians, special tokens, input size, encoding."""
        special = dict(sorted(self.special.items(), key=lambda item: item[1]))
        digest = hashlib.sha256(json.dumps([special, self.input_size]).encode())
        if self.encoding != RankValue():
            digest.update(json.dumps(encoding_to_dict(self.encoding), sort_keys=True).encode())
        digest.update("\n".join(self.ensembl_ids.tolist()).encode())
        digest.update(np.ascontiguousarray(self.tokens, np.int64).tobytes())
        digest.update(np.ascontiguousarray(self.medians, np.float64).tobytes())
        return digest.hexdigest()

    @cached_property
    def token_of_id(self) -> dict[str, int]:
        """Ensembl ID -> token."""
        return dict(zip(self.ensembl_ids.tolist(), self.tokens.tolist(), strict=True))

    @cached_property
    def token_of_name(self) -> dict[str, int]:
        """Upper-case Ensembl ID, alias or symbol -> token; where they disagree, the earlier kind in this list wins."""
        by_symbol = {s.upper(): t for s, t in zip(self.symbols.tolist(), self.tokens.tolist(), strict=True) if s}
        by_alias = {a: self.token_of_id[e] for a, e in self.aliases.items() if e in self.token_of_id}
        return by_symbol | by_alias | self.token_of_id


def context_token(column: str, value: str) -> str:
    """Name of the special token that says the value of a column of `obs`."""
    return f"<{column}:{value}>"


def check_tokens(tokens: Iterable[int], origin: str) -> None:
    """Refuse tokens that are negative or so large that arrays over all tokens would not fit into memory."""
    if wrong := [token for token in tokens if not 0 <= token < MOST_TOKENS]:
        raise ModelError(
            f"{origin} gives out the token {wrong[0]:,}; tokens are numbers from 0 to {MOST_TOKENS - 1:,}."
        )


def names_of(names: list[str]) -> np.ndarray:
    """Names of genes as an array, (n,) str."""
    if odd := [name for name in names if len(name) > MOST_LETTERS or not name.isprintable()]:
        raise ModelError(
            f"{odd[0][:MOST_LETTERS]!r} is no name of a gene: it has more than {MOST_LETTERS} letters, or some that "
            "cannot be printed."
        )
    return np.array(names, dtype=str)


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read a vocabulary from our own files, `genes.tsv` and `geneformer.json` (and `aliases.tsv` where present)."""
    try:
        meta = read_json(folder / META_FILE)
        genes = _read_table(folder / GENES_FILE, {"ensembl_id": str, "symbol": str})
        aliases = {}
        if (folder / ALIASES_FILE).is_file():
            table = _read_table(folder / ALIASES_FILE, str)
            aliases = dict(zip(table["alias"], table["ensembl_id"], strict=True))
        check_tokens([genes["token"].min(), genes["token"].max()] if len(genes) else [], GENES_FILE)
        return Vocabulary(
            tokens=genes["token"].to_numpy(np.int32),
            ensembl_ids=names_of(genes["ensembl_id"].tolist()),
            symbols=names_of(genes["symbol"].tolist()),
            medians=genes["median"].to_numpy(np.float64),
            special={str(k): int(v) for k, v in meta["special_tokens"].items()},
            input_size=int(meta["input_size"]),
            aliases=aliases,
            target_sum=float(meta["target_sum"]),
            record=dict(meta.get("record", {})),
            encoding=encoding_from_dict(meta.get("encoding", encoding_to_dict(RankValue()))),
        )
    except (KeyError, ValueError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        raise ModelError(
            f"The vocabulary in {folder} cannot be read: {error}. It needs {GENES_FILE} with the columns token, "
            f"ensembl_id, symbol, median and {META_FILE} with special_tokens, input_size, target_sum."
        ) from error


def _read_table(path: Path, dtype: Any) -> pd.DataFrame:
    """A table of tab-separated columns, text as it is."""
    content = io.BytesIO(read_bytes(path, MOST_TEXT))
    return pd.read_csv(content, sep="\t", dtype=dtype, na_filter=False, float_precision="round_trip")


def write_vocabulary(vocabulary: Vocabulary, folder: Path) -> None:
    """Write `genes.tsv`, `geneformer.json` and, where there are aliases, `aliases.tsv` into `folder`."""
    pd.DataFrame(
        {
            "token": vocabulary.tokens,
            "ensembl_id": vocabulary.ensembl_ids,
            "symbol": vocabulary.symbols,
            "median": vocabulary.medians,
        }
    ).to_csv(folder / GENES_FILE, sep="\t", index=False)
    if vocabulary.aliases:
        pd.DataFrame(sorted(vocabulary.aliases.items()), columns=["alias", "ensembl_id"]).to_csv(
            folder / ALIASES_FILE, sep="\t", index=False
        )
    meta = {
        "special_tokens": vocabulary.special,
        "input_size": vocabulary.input_size,
        "target_sum": vocabulary.target_sum,
        "encoding": encoding_to_dict(vocabulary.encoding),
        "record": vocabulary.record,
    }
    (folder / META_FILE).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")
