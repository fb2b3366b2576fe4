from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scgeneformer import models
from scgeneformer._adata.check import PROBLEM, call, find_all
from scgeneformer._docs import shared_docs

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgeneformer._adata.check import Finding
    from scgeneformer.models import ModelLike

MARKS = {"ok": "✓", "note": "·", "problem": "✗"}


@dataclass(frozen=True)
class Report:
    """Findings of :func:`check`; prints well, and :meth:`to_frame` gives a table.

    Parameters
    ----------
    findings
        The gravest first.
    parameters
        With these all tools take the data, ``gf.tl.embed_cells(adata, **report.parameters)``; None if none would do.
    """

    findings: list[Finding]
    parameters: dict[str, Any] | None

    @property
    def ok(self) -> bool:
        """Whether the data can be used as they are."""
        return all(finding.level != PROBLEM for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: topic, level ("problem", "note" or "ok"), finding, remedy (a line of code)."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=["topic", "level", "finding", "remedy"])

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.level]} {finding.topic}: {finding.finding}")
            lines += [f"    {finding.remedy}"] if finding.remedy else []
        if self.parameters is None:
            return "\n".join([*lines, "→ Not ready: mend what is marked ✗, from the top, and check again."])
        how = "Ready" if self.ok else "Ready with these parameters"
        return "\n".join([*lines, f"→ {how}: {call('gf.tl.embed_cells', self.parameters)}"])

    __repr__ = __str__


@shared_docs
def check(
    adata: AnnData,
    model: ModelLike | None = None,
    *,
    counts_layer: str | None = None,
    use_raw: bool | None = None,
    gene_ids: str | None = None,
) -> Report:
    """Look whether a model can use these data, and say what to do where it cannot.

    Looks at where the counts are, their scale, the kind of gene names, the species, genes left out, the coverage of the
    vocabulary, duplicates, empty cells and truncation. Changes nothing.

    Parameters
    ----------
    adata
        Cells × genes.
    {model}
    {counts}

    Returns
    -------
    The report: print it, ask ``report.ok``, or take ``report.to_frame()``. What is marked ✗ must be mended, what is
    marked · should be looked at; the line below each, Python for these data, mends it or tells more. The last line is
    the call to go on with, which has the parameters ``report.parameters``.

    Raises
    ------
    ModelError
        If the model has no vocabulary that can be read.
    DataError
        If `adata` is no AnnData. Whatever else is wrong with the data is in the report.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.pp.check(gf.datasets.pbmc68k(), "mini").ok
    True
    """
    vocabulary = models.load_vocabulary(model)
    named = os.fspath(model) if isinstance(model, str | os.PathLike) else model
    parameters = {"model": named, "counts_layer": counts_layer, "use_raw": use_raw, "gene_ids": gene_ids}
    return Report(*find_all(adata, vocabulary, parameters))
