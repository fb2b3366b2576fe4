"""Which perturbations belong to the component of large shifts: a Gaussian mixture over their mean similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scgeneformer._engine.statistics.shift_table import ShiftTable

MAX_ITER = 1000


def mixture(table: ShiftTable, min_cells: int) -> dict[str, np.ndarray]:
    """Fit two Gaussians to the mean cosine of each perturbation; the impact component is that of the lower mean.

    With x = mean cosine − 1 = −mean shift of a perturbation over its cells, two Gaussians over perturbations
    (:class:`sklearn.mixture.GaussianMixture`, ``random_state=0``). scikit-learn adds 1e-6 to variances, which would
    swamp shifts below 1e-3; here it adds that much of the variance of x.

    Parameters
    ----------
    table
        Of the tested perturbations.
    min_cells
        Cells that a perturbation must apply to for taking part.

    Returns
    -------
    Arrays (n_columns,), NaN for perturbations that take no part:

    effect
        Mean shift.
    impact
        1 if the mean is assigned to the impact component, else 0.
    impact_share
        Share of the perturbation's cells that are, each by its own cosine.
    individual, anchor, sum, interaction
        If the table has `parts`: mean shift of the gene alone, of the anchor alone, their sum, and the mean of the
        joint shift less that sum, over the cells in which all are known.
    """
    effect = np.where(table.n_cells >= max(1, min_cells), table.means(table.values), np.nan)
    known = ~np.isnan(effect)
    found = {"effect": effect, "impact": np.full(len(effect), np.nan), "impact_share": np.full(len(effect), np.nan)}
    if len(np.unique(effect[known])) > 1:
        fitted, impact = _fit(-effect[known])
        found["impact"][known] = fitted.predict(-effect[known, None]) == impact
        in_impact = fitted.predict(-table.values[:, None]) == impact
        found["impact_share"] = np.where(known, table.means(in_impact.astype(np.float64)), np.nan)
    return found | _interaction(table, known)


def _fit(x: np.ndarray) -> tuple:
    """The mixture, and which component has the lower mean; their order is accidental."""
    from sklearn.mixture import GaussianMixture

    settings = {"random_state": 0, "reg_covar": 1e-6 * float(x.var()), "max_iter": MAX_ITER}
    fitted = GaussianMixture(n_components=2, **settings).fit(x[:, None])
    return fitted, int(fitted.means_.ravel().argmin())


def _interaction(table: ShiftTable, known: np.ndarray) -> dict[str, np.ndarray]:
    """What the joint perturbation does beyond the sum of the two, over cells in which all three are known."""
    if not table.parts.shape[1]:
        return {}
    single, anchor = table.parts.T
    each = {"individual": single, "anchor": anchor, "sum": single + anchor}
    each["interaction"] = table.values - each["sum"]
    all_known = ~np.isnan(each["sum"])
    means = {name: table.means(np.where(all_known, values, np.nan)) for name, values in each.items()}
    return {name: np.where(known, values, np.nan) for name, values in means.items()}
