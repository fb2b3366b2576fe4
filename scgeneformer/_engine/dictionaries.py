"""Read the reference's dictionary pickles without trusting them."""

from __future__ import annotations

import io
import pickle  # the module only; loading goes through the restricted unpickler below
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scgeneformer._engine.vocabulary import Vocabulary
from scgeneformer._errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

MAX_BYTES = 64 * 2**20  # the largest published dictionary has 4 MB


class Release(NamedTuple):
    """One generation of the reference's dictionaries."""

    name: str
    n_tokens: int
    input_size: int
    special: tuple[str, ...]
    suffix: str  # of the published file names


RELEASES = (
    Release("V1", 25_426, 2048, ("<pad>", "<mask>"), "gc30M"),
    Release("V2", 20_275, 4096, ("<pad>", "<mask>", "<cls>", "<eos>"), "gc104M"),
)
KINDS = ("token_dictionary", "gene_median_dictionary", "ensembl_mapping_dict", "gene_name_id_dict")


class _RefusedError(pickle.UnpicklingError):
    """The pickle holds something a gene dictionary has no use for."""


class _Scalar:
    """Rebuild a numpy number from its bytes, as `numpy.core.multiarray.scalar` does, for plain numbers only."""

    __slots__ = ()  # nothing in a pickle can set an attribute here

    def __call__(self, dtype: np.dtype, data: bytes) -> Any:
        if not isinstance(dtype, np.dtype) or dtype.kind not in "iuf" or not isinstance(data, bytes):
            raise _RefusedError("a numpy scalar that is not a plain number")
        return np.frombuffer(data, dtype=dtype, count=1)[0]


class _Dtype:
    """`numpy.dtype` for the codes of plain numbers only; a copy, so that the state set later stays local."""

    __slots__ = ()

    def __call__(self, code: str, *_: Any) -> np.dtype:
        dtype = np.dtype(code, copy=True) if isinstance(code, str) and len(code) <= 3 else None
        if dtype is None or dtype.kind not in "iuf":
            raise _RefusedError(f"the numpy dtype {code!r}")
        return dtype


_ADMITTED = {
    ("numpy", "dtype"): _Dtype(),
    ("numpy.core.multiarray", "scalar"): _Scalar(),
    ("numpy._core.multiarray", "scalar"): _Scalar(),
}


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _RefusedError(f"{module}.{name}") from None


def read_dictionary(path: Path) -> dict[str, Any]:
    """Read one dictionary pickle: a dict from str to str, int, float or numpy numbers, nothing else.

    Parameters
    ----------
    path
        The pickle file, at most 64 MB.

    Returns
    -------
    The dictionary, numpy numbers turned into Python's.

    Raises
    ------
    ModelError
        If the file is larger, damaged, or holds anything else. Nothing in it is executed.
    """
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ModelError(f"{path} has {size:,} bytes; gene dictionaries have at most {MAX_BYTES:,}. Not read.")
    try:
        content = _RestrictedUnpickler(io.BytesIO(path.read_bytes())).load()
    except _RefusedError as error:
        raise ModelError(
            f"{path} was refused: it holds {error}, and a gene dictionary may hold only dict, str, int, float and "
            "numpy numbers. Nothing in it was executed. Take the dictionary from a source you trust."
        ) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ModelError(f"{path} is not a readable dictionary pickle ({error}). Fetch it again.") from error
    if not isinstance(content, dict) or not all(isinstance(k, str) for k in content):
        raise ModelError(f"{path} is not a dictionary from gene names; it holds a {type(content).__name__}.")
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in content.items()}
    if odd := next((k for k, v in plain.items() if not isinstance(v, str | int | float)), None):
        raise ModelError(
            f"{path} was refused: its entry {odd!r} is a {type(plain[odd]).__name__}, not text or a number."
        )
    return plain


def find_dictionaries(folder: Path) -> dict[str, Path]:
    """Paths of the four dictionaries in `folder`, by kind; kinds that are absent are left out."""
    found = {}
    for kind in KINDS:
        matches = sorted(folder.glob(f"{kind}*.pkl"))
        if len(matches) > 1:
            names = ", ".join(path.name for path in matches)
            raise ModelError(f"{folder} holds several files of one kind ({names}). Keep those of one model only.")
        if matches:
            found[kind] = matches[0]
    return found


def vocabulary_from_dictionaries(folder: Path, input_size: int | None = None) -> Vocabulary:
    """Build a vocabulary from a folder with the reference's dictionary pickles.

    Parameters
    ----------
    folder
        Holds `token_dictionary*.pkl` and `gene_median_dictionary*.pkl`; `ensembl_mapping_dict*.pkl` and
        `gene_name_id_dict*.pkl` are used where present.
    input_size
        Longest sequence of the model; by default 4096 for vocabularies with ``<cls>``, else 2048.
    """
    paths = find_dictionaries(folder)
    if missing := [kind for kind in KINDS[:2] if kind not in paths]:
        raise ModelError(f"{folder} lacks {' and '.join(f'{kind}*.pkl' for kind in missing)}.")
    tokens, medians, mapping, names = (read_dictionary(paths[k]) if k in paths else {} for k in KINDS)
    special = {name: int(token) for name, token in tokens.items() if name.startswith("<")}
    genes = sorted((int(token), gene) for gene, token in tokens.items() if gene not in special)
    if without := [gene for _, gene in genes if gene not in medians]:
        raise ModelError(
            f"{len(without)} genes of {paths['token_dictionary'].name} (such as {without[0]}) have no median in "
            f"{paths['gene_median_dictionary'].name}. The two files belong to different models (V1/V2)."
        )
    known = {gene for _, gene in genes}
    symbol_of = {gene: symbol for symbol, gene in names.items()}
    return Vocabulary(
        tokens=np.array([token for token, _ in genes], dtype=np.int32),
        ensembl_ids=np.array([gene for _, gene in genes], dtype=str),
        symbols=np.array([symbol_of.get(gene, "") for _, gene in genes], dtype=str),
        medians=np.array([medians[gene] for _, gene in genes], dtype=np.float64),
        special=special,
        input_size=input_size or (4096 if "<cls>" in special else 2048),
        aliases={name.upper(): gene for name, gene in mapping.items() if gene in known and name != gene},
    )
