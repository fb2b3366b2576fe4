"""`gf.tl.perturb` beside the stock BertModel, run cell by cell on lists of tokens that are edited by hand."""

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_bert

import scgeneformer as gf
from scgeneformer.models._read import convert

GENES = ["G1", "G2", "G3", "G7"]
GOAL = {"column": "state", "start": "ill", "goal": "well"}


class Naive:
    """The definitions, one sequence at a time, in float64."""

    def __init__(self, adata, model, layer=-2):
        self.vocabulary, self.layer = model.vocabulary, layer
        self.bert = make_bert(model.vocabulary).double()
        tokens = gf.tl.tokenize(adata, model, copy=True).obsm["geneformer_tokens"].astype(int)
        special = set(model.vocabulary.special.values())
        self.cells = [[t for t in row.tolist() if t not in special] for row in tokens]

    def token(self, gene):
        return self.vocabulary.token_of_name[gene]

    def states(self, genes, positions=None):
        """Hidden states of the genes, and of the whole sequence."""
        lead = [self.vocabulary.cls_token] if self.vocabulary.n_lead else []
        trail = [self.vocabulary.eos_token] if self.vocabulary.n_trail else []
        ids = torch.tensor([[*lead, *genes, *trail]])
        if positions is not None:
            last = len(lead) + len(self.original)  # where the token behind the genes stood
            positions = torch.tensor(
                [[*range(len(lead)), *(len(lead) + p for p in positions), *([last] if trail else [])]]
            )
        with torch.no_grad():
            all_states = self.bert(ids, position_ids=positions, output_hidden_states=True).hidden_states[self.layer][0]
        return all_states[len(lead) : len(lead) + len(genes)], all_states

    def shift(self, original, edited, targets, measure, positions=None):
        """1 − similarity of a cell before and after."""
        self.original = original
        before, whole_before = self.states(original)
        after, whole_after = self.states(edited, positions)
        cosine = torch.nn.functional.cosine_similarity
        if measure == "cls":
            return 1 - cosine(whole_before[0], whole_after[0], dim=0).item()
        if measure == "mean":
            return 1 - cosine(before.mean(dim=0), after.mean(dim=0), dim=0).item()
        shared = [g for g in original if g in edited and g not in targets]
        pairs = [cosine(before[original.index(g)], after[edited.index(g)], dim=0).item() for g in shared]
        return 1 - np.mean(pairs)


def deleted(cell, targets, most):
    return [g for g in cell if g not in targets] if set(targets) <= set(cell) else None


def overexpressed(cell, targets, most):
    return ([*targets, *(g for g in cell if g not in targets)])[:most]


def activated(cell, targets, most):
    (target,) = targets
    if target not in cell:
        return None
    rest = [g for g in cell if g != target]
    rest.insert(max(0, cell.index(target) - max(1, len(cell) // 4)), target)
    return rest


def inhibited(cell, targets, most):
    (target,) = targets
    if target not in cell:
        return None
    rest = [g for g in cell if g != target]
    rest.insert(min(len(cell) - 1, cell.index(target) + max(1, len(cell) // 4)), target)
    return rest


def masked(cell, targets, most):
    return [1 if g in targets else g for g in cell] if set(targets) <= set(cell) else None


BY_HAND = {
    "delete": deleted,
    "overexpress": overexpressed,
    "activate": activated,
    "inhibit": inhibited,
    "mask": masked,
}


def expected_column(naive, mode, targets, measure, max_genes):
    """Shift of every cell, NaN where the perturbation does not apply."""
    found = []
    for cell in naive.cells:
        edited = BY_HAND[mode](cell, targets, max_genes) if cell else None
        if not edited:
            found.append(np.nan)
            continue
        entered = len([t for t in targets if t not in cell]) if mode == "overexpress" else 0
        original = cell[: len(cell) - max(0, len(cell) + entered - max_genes)]
        found.append(naive.shift(original, edited, targets, measure))
    return np.array(found)


def dense(layer):
    """A layer as an array, NaN where nothing is stored."""
    layer = sp.csr_matrix(layer)
    found = np.full(layer.shape, np.nan)
    found[np.repeat(np.arange(layer.shape[0]), np.diff(layer.indptr)), layer.indices] = layer.data
    return found


@pytest.fixture
def adata():
    adata = make_adata()
    clear_cells(adata, 4)
    return adata


@pytest.mark.parametrize("mode", BY_HAND)
@pytest.mark.parametrize("layer", [-2, -1])
def test_every_mode_equals_the_stock_model_on_sequences_edited_by_hand(adata, model, mode, layer):
    gf.tl.perturb(adata, GENES, mode, model=model, layer=layer)
    naive, measure = Naive(adata, model, layer), "genes" if model.vocabulary.cls_token is None else "cls"
    found = dense(adata.layers[f"geneformer_{mode}"])
    for gene in GENES:
        expected = expected_column(naive, mode, [naive.token(gene)], measure, model.vocabulary.max_genes)
        np.testing.assert_allclose(found[:, adata.var_names.get_loc(gene)], expected, atol=2e-6)
    others = ~adata.var_names.isin(GENES)
    assert np.isnan(found[:, others]).all()
    assert np.isnan(found[4]).all()  # the empty cell
    assert adata.uns[f"geneformer_{mode}"]["genes"].tolist() == GENES


@pytest.mark.parametrize("measure", ["genes", "mean"])
@pytest.mark.parametrize("mode", ["delete", "overexpress"])
def test_every_measure_of_combinations_equals_the_stock_model(adata, model, mode, measure):
    pairs = [("G1", "G2"), ("G3", "G7", "G1")]
    gf.tl.perturb(adata, pairs, mode, model=model, measure=measure)
    naive = Naive(adata, model)
    for i, pair in enumerate(pairs):
        targets = [naive.token(gene) for gene in pair]
        expected = expected_column(naive, mode, targets, measure, model.vocabulary.max_genes)
        np.testing.assert_allclose(adata.obsm[f"geneformer_{mode}"][:, i], expected, atol=2e-6)
    assert adata.uns[f"geneformer_{mode}"]["combinations"].tolist() == ["G1 + G2", "G3 + G7 + G1"]
    assert f"geneformer_{mode}" not in adata.layers


def test_without_names_every_gene_of_each_cell_is_deleted(adata, model):
    gf.tl.perturb(adata, model=model)
    naive = Naive(adata, model)
    found, ranks = dense(adata.layers["geneformer_delete"]), dense(adata.layers["geneformer_delete_rank"])
    column = {naive.token(name): i for i, name in enumerate(adata.var_names)}
    measure = "genes" if model.vocabulary.cls_token is None else "cls"
    for row, cell in enumerate(naive.cells):
        assert np.flatnonzero(~np.isnan(found[row])).tolist() == sorted(column[gene] for gene in cell)
        for rank, gene in enumerate(cell, start=1):
            expected = naive.shift(cell, [g for g in cell if g != gene], [gene], measure)
            assert found[row, column[gene]] == pytest.approx(expected, abs=2e-6)
            assert ranks[row, column[gene]] == rank


def test_held_positions_leave_the_gap(adata, model):
    gf.tl.perturb(adata, GENES, model=model, positions="both")
    naive = Naive(adata, model)
    measure = "genes" if model.vocabulary.cls_token is None else "cls"
    shift, hold = dense(adata.layers["geneformer_delete"]), dense(adata.layers["geneformer_delete_hold"])
    np.testing.assert_array_equal(np.isnan(shift), np.isnan(hold))
    compared = 0
    for row, cell in enumerate(naive.cells):
        for gene in GENES:
            token, at = naive.token(gene), adata.var_names.get_loc(gene)
            if token in cell:
                rest = [g for g in cell if g != token]
                expected = naive.shift(cell, rest, [token], measure, positions=[cell.index(g) for g in rest])
                assert hold[row, at] == pytest.approx(expected, abs=2e-6)
                compared += abs(hold[row, at] - shift[row, at]) > 1e-4
    assert compared > 5  # they are not the same


def test_several_layers_have_keys_of_their_own(adata, toy):
    gf.tl.perturb(adata, GENES, model=toy, layer=[-2, 0])
    for n, layer in ((2, -2), (0, 0)):
        single = gf.tl.perturb(adata, GENES, model=toy, layer=layer, copy=True).layers["geneformer_delete"]
        np.testing.assert_allclose(adata.layers[f"geneformer_delete_L{n}"].toarray(), single.toarray(), atol=1e-7)
        assert adata.uns[f"geneformer_delete_L{n}"]["params"]["layer"] == n


def test_a_mixture_of_modes_is_applied_together(adata, toy):
    naive = Naive(adata, toy)
    names = dict(zip(map(naive.token, adata.var_names), adata.var_names, strict=True))
    a, b, c = naive.cells[0][2], naive.cells[0][5], naive.cells[0][7]
    edits = {"delete": names[a], "activate": {names[b]: 1}, "replace": {names[c]: "<mask>"}}
    gf.tl.perturb(adata, edits, model=toy)
    found = adata.obsm["geneformer_edits"][:, 0]
    applies = [{a, b, c} <= set(cell) for cell in naive.cells]
    assert 0 < sum(applies) < len(applies)
    np.testing.assert_array_equal(~np.isnan(found), applies)
    for row in np.flatnonzero(applies):
        cell = naive.cells[row]
        edited = [b, *(1 if g == c else g for g in cell if g not in (a, b))]
        assert found[row] == pytest.approx(naive.shift(cell, edited, [a, b, c], "genes"), abs=2e-6)
    name = f"delete {names[a]} + activate {names[b]} to 1 + replace {names[c]} to <mask>"
    assert adata.uns["geneformer_edits"]["combinations"].tolist() == [name]


@pytest.mark.parametrize("to", [0, 5.0, 2000])
def test_set_ranks_by_counts_per_ten_thousand(adata, toy, to):
    gf.tl.perturb(adata, ["G2"], "set", to=to, model=toy)
    naive, medians = Naive(adata, toy), toy.vocabulary.median_of_token
    token = naive.token("G2")
    found = dense(adata.layers["geneformer_set"])[:, 2]
    counts = adata.X.toarray().astype(float)
    tokens = np.array([naive.token(name) for name in adata.var_names])
    for row, cell in enumerate(naive.cells):
        if not cell:
            assert np.isnan(found[row])
            continue
        values = counts[row] / counts[row].sum() * 10_000
        values[2] = to
        order = sorted(range(len(tokens)), key=lambda i: (-values[i] / medians[tokens[i]], tokens[i]))
        edited = [int(tokens[i]) for i in order if values[i] > 0][: toy.vocabulary.max_genes]
        assert found[row] == pytest.approx(naive.shift(cell, edited, [token], "genes"), abs=2e-6)


def test_refill_lets_the_next_gene_move_in(adata, toy):
    gf.tl.perturb(adata, GENES, model=toy, refill=True)
    gf.tl.perturb(adata, GENES, model=toy, key_added="plain")
    naive, uncut = Naive(adata, toy), gf.tl.tokenize(adata, toy, copy=True).obs["geneformer_n_genes"].to_numpy()
    refilled, plain = dense(adata.layers["geneformer_delete"]), dense(adata.layers["plain"])
    np.testing.assert_array_equal(np.isnan(refilled), np.isnan(plain))
    cut = uncut > toy.vocabulary.max_genes
    assert cut.any()
    assert (~cut).sum() > 1
    np.testing.assert_allclose(refilled[~cut], plain[~cut], atol=1e-7)
    full = gf.tl.tokenize(adata, make_uncut(toy), copy=True).obsm["geneformer_tokens"].astype(int)
    for row in np.flatnonzero(cut):
        cell, whole = naive.cells[row], [t for t in full[row].tolist() if t]
        for gene in GENES:
            token = naive.token(gene)
            if token in cell:
                edited = [g for g in whole if g != token][: len(cell)]
                expected = naive.shift(cell, edited, [token], "genes")
                assert refilled[row, adata.var_names.get_loc(gene)] == pytest.approx(expected, abs=2e-6)


def make_uncut(model):
    """The same vocabulary with room for all genes."""
    from dataclasses import replace

    return replace(model, vocabulary=replace(model.vocabulary, input_size=100))


def test_pairs_with_an_anchor_equal_the_stock_model(adata, toy):
    gf.tl.perturb(adata, model=toy, anchor="G1")
    naive, found = Naive(adata, toy), dense(adata.layers["geneformer_delete_anchor"])
    anchor = naive.token("G1")
    column = {naive.token(name): i for i, name in enumerate(adata.var_names)}
    with_anchor = [row for row, cell in enumerate(naive.cells) if anchor in cell]
    assert np.flatnonzero(~np.isnan(found).all(axis=1)).tolist() == with_anchor
    for row in with_anchor[:3]:
        cell = naive.cells[row]
        for gene in cell:
            edited = [g for g in cell if g not in (anchor, gene)]
            expected = naive.shift(cell, edited, [anchor, gene], "genes")
            assert found[row, column[gene]] == pytest.approx(expected, abs=2e-6)
    other = next(column[gene] for gene in naive.cells[with_anchor[0]] if gene != anchor)
    gf.tl.perturb(adata, [adata.var_names[other]], model=toy, anchor="G1", key_added="some")
    some, both = dense(adata.layers["some_anchor"]), sorted([1, other])
    np.testing.assert_array_equal(np.flatnonzero(~np.isnan(some).all(axis=0)), both)  # the anchor alone, too
    np.testing.assert_allclose(some[:, both], found[:, both], atol=1e-6)


@pytest.mark.parametrize("name", ["G3", "ENSG00000000003", "g3", "OLD3"])
def test_an_anchor_is_the_same_however_it_is_named(adata, toy, name):
    gf.tl.perturb(adata, GENES, model=toy)
    gf.tl.perturb(adata, ["G1", "G2", "G7"], model=toy, anchor=name)
    assert adata.uns["geneformer_delete_anchor"]["params"]["anchor"] == "G3"
    gf.tl.rank_perturbations(adata, "geneformer_delete_anchor", test="mixture", min_cells=1)
    found = gf.get.rank_perturbations_df(adata)
    assert sorted(found["names"]) == ["G2", "G7"]  # no cell has G1 and G3
    assert found[["individual", "anchor", "sum", "interaction"]].notna().all(axis=None)


def test_shifts_are_computed_in_float32_unless_half_precision_is_asked_for(adata, model, log):
    expected = gf.tl.perturb(adata, GENES, model=model, copy=True).layers["geneformer_delete"]
    stored = convert(model, model.device, torch.bfloat16)  # as gf.models.load gives it on CUDA
    gf.tl.perturb(adata, GENES, model=stored)
    assert adata.uns["geneformer_delete"]["params"]["dtype"] == "float32"
    assert "WARNING" not in log()
    with gf.settings.override(dtype="bfloat16"):
        gf.tl.perturb(adata, GENES, model=model)
    assert adata.uns["geneformer_delete"]["params"]["dtype"] == "bfloat16"
    text = "dtype='bfloat16' rounds by more than many genes move a cell. Use dtype='float32' or, on CUDA, 'tf32'"
    assert text in log()
    assert np.abs(adata.layers["geneformer_delete"].data - expected.data).max() > 0


def test_shifts_towards_goal_states_equal_the_stock_model(adata, model):
    adata.obs["state"] = np.resize(["ill", "well", "a/b"], adata.n_obs)
    goal = {"column": "state", "start": "ill", "goal": "well", "alternatives": ["a/b"]}
    gf.tl.perturb(adata, GENES, model=model, goal=goal)
    naive, pool = Naive(adata, model), "mean" if model.vocabulary.cls_token is None else "cls"

    def embedding(genes):
        states, whole = naive.states(genes)
        return (whole[0] if pool == "cls" else states.mean(dim=0)).numpy()

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    states, labels = adata.uns["geneformer_delete"]["states"].tolist(), adata.obs["state"].to_numpy()
    assert states == ["ill", "well", "a/b"]
    assert adata.uns["geneformer_delete"]["state_keys"].tolist() == [
        "geneformer_delete_to_ill",
        "geneformer_delete_to_well",
        "geneformer_delete_to_a_b",
    ]
    for state, key in zip(states, adata.uns["geneformer_delete"]["state_keys"], strict=True):
        rows = [r for r in np.flatnonzero(labels == state) if naive.cells[r]]
        mean = np.mean([embedding(naive.cells[r]) for r in rows], axis=0)
        found = dense(adata.layers[key])
        assert np.isnan(found[labels != "ill"]).all()
        for row in np.flatnonzero(labels == "ill"):
            for gene in GENES:
                token = naive.token(gene)
                if token in naive.cells[row]:
                    after = embedding([g for g in naive.cells[row] if g != token])
                    expected = cosine(after, mean) - cosine(embedding(naive.cells[row]), mean)
                    assert found[row, adata.var_names.get_loc(gene)] == pytest.approx(expected, abs=2e-6)


def test_effects_and_vectors_equal_the_stock_model(adata, toy):
    gf.tl.perturb(adata, ["G7", "G1", ("G1", "G2")], model=toy, effects=True, vectors=True)
    naive, stored = Naive(adata, toy), adata.uns["geneformer_delete"]
    assert stored["effects"].tolist() == stored["vectors"].tolist() == ["G1", "G7", "G1 + G2"]
    cosine = torch.nn.functional.cosine_similarity
    for j, targets in enumerate((["G1"], ["G7"], ["G1", "G2"])):
        targets = [naive.token(gene) for gene in targets]
        shifts = {gene: [] for gene in range(adata.n_vars)}
        for row, cell in enumerate(naive.cells):
            vector = adata.obsm["geneformer_delete_vectors"][row, j]
            if not set(targets) <= set(cell):
                assert np.isnan(vector).all()
                continue
            before, after = naive.states(cell)[0], naive.states(rest := [g for g in cell if g not in targets])[0]
            np.testing.assert_allclose(vector, after.mean(dim=0) - before.mean(dim=0), atol=2e-6)
            for i, name in enumerate(adata.var_names):
                if (token := naive.token(name)) in rest:
                    shifts[i].append(1 - cosine(before[cell.index(token)], after[rest.index(token)], dim=0).item())
        for i, values in shifts.items():
            assert adata.varm["geneformer_delete_effects_n_cells"][i, j] == len(values)
            mean = np.mean(values) if values else np.nan
            spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
            np.testing.assert_allclose(adata.varm["geneformer_delete_effects"][i, j], mean, atol=2e-6)
            np.testing.assert_allclose(adata.varm["geneformer_delete_effects_sd"][i, j], spread, atol=5e-6)


def test_means_of_groups_are_those_of_their_cells(adata, toy):
    gf.tl.perturb(adata, model=toy, groupby="cell_type")
    found, means = dense(adata.layers["geneformer_delete"]), adata.varm["geneformer_delete_cell_type"]
    n_cells = adata.varm["geneformer_delete_cell_type_n_cells"]
    for i, group in enumerate(adata.uns["geneformer_delete"]["groups"]):
        some = found[(adata.obs["cell_type"] == group).to_numpy()]
        np.testing.assert_array_equal(n_cells[:, i], (~np.isnan(some)).sum(axis=0))
        there = n_cells[:, i] > 0
        np.testing.assert_allclose(means[there, i], np.nanmean(some[:, there], axis=0), rtol=1e-5)
        assert np.isnan(means[~there, i]).all()


def test_matched_genes_are_the_nearest_in_rank(adata, toy):
    gf.tl.perturb(adata, ["G1"], model=toy, n_matched=3)
    naive, ranks = Naive(adata, toy), dense(adata.layers["geneformer_delete_rank"])
    for row, cell in enumerate(naive.cells):
        there = np.sort(ranks[row][~np.isnan(ranks[row])])
        if naive.token("G1") not in cell:
            assert not len(there)
            continue
        rank = cell.index(naive.token("G1")) + 1
        distances = sorted(abs(r - rank) for r in range(1, len(cell) + 1))[: 1 + 3]
        assert sorted(np.abs(there - rank)) == distances
    whole = gf.tl.perturb(adata, model=toy, copy=True).layers["geneformer_delete"].toarray()
    part = dense(adata.layers["geneformer_delete"])
    np.testing.assert_allclose(part[~np.isnan(part)], whole[~np.isnan(part)], atol=1e-6)


def test_genes_that_are_not_in_the_cell_are_matched_with_others_that_are_not(adata, toy):
    gf.tl.perturb(adata, ["G1"], "overexpress", model=toy, n_matched=2)
    ranks = dense(adata.layers["geneformer_overexpress_rank"])
    for row in range(adata.n_obs):
        if ranks[row, 1] == 0:
            assert (~np.isnan(ranks[row])).sum() == 3
            assert np.nansum(ranks[row]) == 0


@pytest.mark.parametrize("tokens_per_batch", [1, 50, 100_000])
def test_the_numbers_do_not_depend_on_the_batches_nor_on_blocks(adata, model, tokens_per_batch, monkeypatch):
    one = gf.tl.perturb(adata, model=model, effects=False, copy=True).layers["geneformer_delete"]
    monkeypatch.setattr("scgeneformer._engine.perturbation.perturbed_cells.TOKENS_PER_BLOCK", 100)
    other = gf.tl.perturb(adata, model=model, tokens_per_batch=tokens_per_batch, copy=True).layers["geneformer_delete"]
    np.testing.assert_array_equal(one.indices, other.indices)
    np.testing.assert_allclose(one.data, other.data, atol=1e-6)


def test_several_devices_give_the_numbers_of_one(adata, model, monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.perturbation.perturbed_cells.TOKENS_PER_BLOCK", 100)
    kwargs = {"model": model, "effects": True, "vectors": True, "copy": True}
    one = gf.tl.perturb(adata, GENES, **kwargs)
    two = gf.tl.perturb(adata, GENES, device=["cpu", "cpu"], **kwargs)
    np.testing.assert_allclose(one.layers["geneformer_delete"].data, two.layers["geneformer_delete"].data, atol=1e-6)
    for key in ("geneformer_delete_effects", "geneformer_delete_effects_sd"):
        np.testing.assert_allclose(one.varm[key], two.varm[key], atol=1e-6)
    key = "geneformer_delete_vectors"
    np.testing.assert_allclose(one.obsm[key], two.obsm[key], atol=1e-6)


def test_genes_that_share_a_token_receive_the_same(adata, toy):
    adata.var["ensembl_id"] = [*adata.var["ensembl_id"][:39], "ENSG00000000001"]
    gf.tl.perturb(adata, ["G1"], model=toy)
    found = dense(adata.layers["geneformer_delete"])
    np.testing.assert_array_equal(found[:, 1], found[:, 39])
    assert (~np.isnan(found[:, 1])).any()


def test_a_sample_of_each_group_is_the_same_in_any_order(adata, toy):
    gf.tl.perturb(adata, model=toy, groupby="cell_type", sample=2)
    filled = np.diff(adata.layers["geneformer_delete"].indptr) > 0
    assert adata.obs["cell_type"][filled].value_counts().max() == 2
    assert adata.uns["geneformer_delete"]["params"]["sample"] == 2
    turned = adata[::-1].copy()
    gf.tl.perturb(turned, model=toy, groupby="cell_type", sample=2)  # the same cells
    assert (np.diff(turned.layers["geneformer_delete"].indptr)[::-1] > 0).tolist() == filled.tolist()


def test_log_normalised_counts_rank_alike_and_can_be_set(toy):
    adata = make_adata()
    adata.X.data[:] = np.random.default_rng(0).integers(1, 100_000, adata.X.nnz)  # no ties, which rounding would break
    counts = gf.tl.perturb(adata, ["G1"], "set", to=30, model=toy, copy=True).layers["geneformer_set"]
    sc.pp.normalize_total(adata, target_sum=5000)
    sc.pp.log1p(adata)
    found = gf.tl.perturb(adata, ["G1"], "set", to=30, model=toy, copy=True).layers["geneformer_set"]
    np.testing.assert_allclose(found.toarray(), counts.toarray(), atol=1e-6)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_results_survive_a_file_and_subsetting(adata, toy, tmp_path, form):
    adata.obs["state"] = np.resize(["ill", "well"], adata.n_obs)
    goal = {"column": "state", "start": "ill", "goal": "well"}
    gf.tl.perturb(adata, [*GENES, ("G1", "G2")], model=toy, effects=True, vectors=True, goal=goal, groupby="donor")
    gf.tl.perturb(adata, {"set": {"G1": 4.0}}, model=toy)
    gf.tl.perturb(adata, ["G1"], "set", to=4.0, model=toy)
    path = tmp_path / f"a.{form}"
    getattr(adata, f"write_{form}")(path)
    back = getattr(ad, f"read_{form}")(path)
    assert_equal(back.uns["geneformer_delete"], adata.uns["geneformer_delete"])
    np.testing.assert_array_equal(dense(back.layers["geneformer_delete"]), dense(adata.layers["geneformer_delete"]))
    assert set(back.layers) == set(adata.layers)
    part = back[back.obs["state"] == "ill", :10].copy()
    assert part.layers["geneformer_delete"].shape == part.shape


def test_copy_leaves_the_original_as_it_is(unchanged, toy):
    found = gf.tl.perturb(unchanged, GENES, model=toy, copy=True)
    assert "geneformer_delete" in found.layers


def test_use_raw_finds_genes_of_var_by_name(adata, toy):
    whole = gf.tl.perturb(adata, GENES, model=toy, copy=True)
    adata.raw = adata
    part = adata[:, :10].copy()
    gf.tl.perturb(part, GENES, model=toy, use_raw=True)
    np.testing.assert_allclose(
        part.layers["geneformer_delete"].toarray(), whole.layers["geneformer_delete"].toarray()[:, :10], atol=1e-6
    )


@pytest.mark.parametrize(("mode", "positions"), [("delete", "both"), ("overexpress", "shift")])
def test_a_screen_that_leaves_no_gene_out_is_exact(adata, model, mode, positions, monkeypatch):
    """The estimate is carried by 32 genes, and no cell here has more."""
    monkeypatch.setattr("scgeneformer._engine.perturbation.screened.EXACT_BELOW", 0)
    adata.obs["state"] = np.resize(["ill", "well"], adata.n_obs)
    wishes = {"mode": mode, "positions": positions, "model": model, "goal": dict(GOAL), "layer": [-2, -1], "copy": True}
    exact = gf.tl.perturb(adata, GENES, **wishes)
    screened = gf.tl.perturb(adata, GENES, method="screen", n_exact=1, **wishes)
    layers = [key for key in exact.layers if key.startswith("geneformer")]
    assert len(layers) == (8 if positions == "shift" else 16)
    for key in layers:
        np.testing.assert_array_equal(screened.layers[key].indices, exact.layers[key].indices)
        np.testing.assert_allclose(screened.layers[key].data, exact.layers[key].data, atol=3e-6)
    confirmed, ranks = (dense(screened.layers[f"geneformer_{mode}_L2_{name}"]) for name in ("exact", "rank"))
    assert (confirmed[ranks == 0] == 1).all()  # genes that enter
    np.testing.assert_array_equal((confirmed * (ranks > 0) == 1).sum(axis=1), (ranks > 0).any(axis=1))


def test_a_screen_runs_those_exactly_that_lead_the_estimate(toy, monkeypatch):
    monkeypatch.setattr("scgeneformer._engine.perturbation.screened.EXACT_BELOW", 0)
    adata = make_adata()
    gf.tl.perturb(adata, model=toy, method="screen", n_exact=3)
    for row in range(adata.n_obs):
        shift, exact = adata.layers["geneformer_delete"][row].data, adata.layers["geneformer_delete_exact"][row].data
        assert exact.sum() == 3
        assert shift[exact == 1].min() >= shift[exact == 0].max() - 1e-6


def test_short_cells_are_not_estimated(adata, toy):
    gf.tl.perturb(adata, model=toy, method="screen", n_exact=0)
    exact = gf.tl.perturb(adata, model=toy, copy=True)
    np.testing.assert_array_equal(adata.layers["geneformer_delete"].data, exact.layers["geneformer_delete"].data)
    assert (adata.layers["geneformer_delete_exact"].data == 1).all()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "remove"}, "mode='remove' does not exist; choose one of 'set', 'delete'"),
        ({"genes": []}, "genes=\\[\\] names no gene"),
        ({"genes": [3]}, "genes holds 3, which is no name of a gene and no combination"),
        ({"genes": ["NOSUCH"]}, "None of the genes can be used .*unknown to the model: 'NOSUCH'"),
        ({"genes": ["G-11"]}, r"unknown to the model: 'G-11'\)\. Did you mean 'G11'\? Name genes of adata\.var"),
        ({"genes": ["G111"]}, r"unknown to the model: 'G111'\)\. Name genes of adata\.var"),  # near, but another gene
        ({"genes": ["ENSG00000000111"]}, r"unknown to the model: 'ENSG00000000111'\)\. Name genes of adata\.var"),
        ({"genes": [("G1", "NOSUCH")]}, "None of the combinations can be used"),
        (
            {"genes": [("G1", "G1")]},
            r"'G1 \+ G1' does not have each .* in exactly one edit\. Name every gene once",
        ),
        ({"genes": [("G1", "ENSG00000000001")]}, "in exactly one edit"),
        ({"genes": "mini"}, "genes='mini' is the name of a model. Name it by its keyword: model='mini'"),
        ({"genes": [("G1", "G1", "G2"), {"delete": "G1", "mask": "G1"}]}, "in exactly one edit"),
        ({"mode": "overexpress", "positions": "hold"}, "positions='hold' has no meaning for 'overexpress'"),
        ({"genes": {"activate": "G1"}, "positions": "both"}, "has no meaning for 'activate'"),
        ({"positions": "stay"}, "positions='stay' does not exist"),
        ({"positions": "hold", "refill": True}, "refill=True moves genes up"),
        ({"measure": "median"}, "measure='median' does not exist"),
        ({"measure": "cls"}, "needs a model with a <cls> token"),
        ({"mode": "set", "genes": ["G1"]}, "to=None is no expression value.*counts per 10,000"),
        ({"mode": "set"}, "to=None is no expression value"),
        ({"mode": "set", "to": 4.0}, "gives one value to all genes"),
        ({"mode": "set", "genes": ["G1"], "to": -1}, "to=-1 is no expression value"),
        ({"mode": "activate", "to": 0}, "to=0 is no rank"),
        ({"mode": "delete", "to": 3}, "to=3 has no meaning for mode='delete'.*'activate'"),
        ({"mode": "replace", "genes": ["G1"], "to": "<sep>"}, "has no token '<sep>'"),
        ({"mode": "mask", "to": 3}, "mode='mask' puts <mask> in place"),
        ({"anchor": "NOSUCH"}, "anchor='NOSUCH' is not in adata.var"),
        ({"anchor": "G1", "genes": [("G1", "G2")]}, "anchor pairs single genes"),
        ({"effects": True}, "effects=True keeps much"),
        ({"vectors": True}, "vectors=True keeps much"),
        ({"method": "fast"}, "method='fast' does not exist"),
        ({"method": "screen", "mode": "mask"}, "does not estimate mode='mask'"),
        ({"method": "screen", "genes": [("G1", "G2")]}, "does not estimate combinations"),
        ({"method": "screen", "genes": ["G1"], "effects": True}, "does not estimate effects=True"),
        ({"method": "screen", "dtype": "bfloat16"}, "dtype='bfloat16' rounds by more .* Use dtype='float32'"),
        ({"n_exact": None}, "n_exact=None must be a whole number"),
        ({"n_matched": 3}, "n_matched adds nulls to genes that are named"),
        ({"n_matched": -1, "genes": ["G1"]}, "n_matched=-1 must be a whole number"),
        ({"sample": 0}, "sample=0 must be a whole number"),
        ({"layer": 9}, "layer=9 does not exist"),
        ({"goal": {"start": "a"}}, "goal=.* is not understood"),
        ({"goal": {"column": "nope", "start": "a", "goal": "b"}}, "goal\\['column'\\]='nope' is no column"),
        ({"goal": {"column": "donor", "start": "a", "goal": "z"}}, "No cell has the state 'z'.*'a', 'b'"),
        ({"goal": {"column": "donor", "start": "a", "goal": "a"}}, "The state 'a' is named twice"),
        ({"groupby": "nope"}, "groupby='nope' is no column"),
    ],
)
def test_bad_input_says_what_to_do_and_changes_nothing(toy, kwargs, message):
    adata = make_adata()
    before = adata.copy()
    with pytest.raises(gf.DataError, match=message):
        gf.tl.perturb(adata, **({"model": toy} | kwargs))
    assert_equal(adata, before)


def test_scaled_data_are_refused(adata, toy):
    adata.X = sp.csr_matrix(adata.X.toarray() - 1.0)
    with pytest.raises(gf.DataError, match="negative"):
        gf.tl.perturb(adata, ["G1"], "set", to=3.0, model=toy)


def test_genes_of_no_cell_are_named_in_one_warning(adata, toy, log):
    counts = adata.X.toarray()
    counts[:, [1, 2]] = 0
    adata.X = sp.csr_matrix(counts)
    gf.tl.perturb(adata, ["G1", "G2", "G3", "NOSUCH", tuple(f"G{i}" for i in range(30))], model=toy)
    assert "3 of 4 perturbations apply to no cell" in log()
    assert "G1, G2, G0 + G1" in log()
    assert "1 of 4 genes are left out (unknown to the model: 'NOSUCH')" in log()
    assert np.isnan(adata.obsm["geneformer_delete"]).all()
    assert adata.layers["geneformer_delete"][:, 1].nnz == 0


@pytest.mark.parametrize("method", ["exact", "screen"])
def test_a_gene_that_no_cell_has_leaves_an_empty_result(adata, model, log, method):
    adata.obs["state"] = np.resize(["ill", "well"], adata.n_obs)
    counts = adata.X.toarray()
    counts[:, 1] = 0
    adata.X = sp.csr_matrix(counts)
    gf.tl.perturb(adata, ["G1"], model=model, goal=GOAL, positions="both", groupby="donor", method=method)
    assert "1 of 1 perturbations apply to no cell" in log()
    for key in ("geneformer_delete", "geneformer_delete_hold", "geneformer_delete_to_well", "geneformer_delete_rank"):
        assert adata.layers[key].shape == adata.shape
        assert adata.layers[key].nnz == 0
    assert np.isnan(adata.varm["geneformer_delete_donor"]).all()


def test_cells_that_are_all_empty_have_no_result(adata, toy):
    adata.X = sp.csr_matrix(adata.shape, dtype=np.float32)
    gf.tl.perturb(adata, [("G1", "G2")], "overexpress", model=toy, effects=True, vectors=True)
    assert np.isnan(adata.obsm["geneformer_overexpress"]).all()
    assert np.isnan(adata.varm["geneformer_overexpress_effects"]).all()
    assert np.isnan(adata.obsm["geneformer_overexpress_vectors"]).all()
