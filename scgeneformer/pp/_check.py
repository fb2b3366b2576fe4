from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scgeneformer import models
from scgeneformer._adata.check import find_all
from scgeneformer._docs import shared_docs

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from scgeneformer._adata.check import Finding
    from scgeneformer.models import ModelLike

MARKS = {"ok": "✓", "note": "·", "problem": "✗"}


@dataclass(frozen=True)
class Report:
    """Findings of :func:`check`; prints well, and :meth:`to_frame` gives a table."""

    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """Whether the data can be used as they are."""
        return all(finding.level != "problem" for finding in self.findings)

    def to_frame(self) -> pd.DataFrame:
        """One row per finding: topic, level ("ok", "note" or "problem"), finding, remedy."""
        import pandas as pd

        return pd.DataFrame(self.findings, columns=["topic", "level", "finding", "remedy"])

    def __str__(self) -> str:
        lines = []
        for finding in self.findings:
            lines.append(f"{MARKS[finding.level]} {finding.topic}: {finding.finding}")
            lines += [f"    {finding.remedy}"] if finding.remedy else []
        return "\n".join(lines)

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

    Looks at where the counts are, their scale, the kind of gene names, the species, the coverage of the vocabulary,
    duplicates, empty cells and truncation. Changes nothing.

    Parameters
    ----------
    adata
        Cells × genes.
    {model}
    {counts}

    Returns
    -------
    The report. Print it, ask ``report.ok``, or take ``report.to_frame()``.

    Examples
    --------
    >>> import scgeneformer as gf
    >>> gf.pp.check(gf.datasets.pbmc68k(), "mini").ok
    True
    """
    vocabulary = models.load_vocabulary(model)
    return Report(find_all(adata, vocabulary, counts_layer=counts_layer, use_raw=use_raw, gene_ids=gene_ids))
