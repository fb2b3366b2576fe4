import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch.nn.functional import normalize
from toys import make_bert, make_vocabulary

import scgeneformer as gf
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._engine.encoder import hidden_states, use_own_kernels
from scgeneformer._engine.packing import pack
from scgeneformer._engine.perturbation.screen import screen_cell
from scgeneformer._engine.perturbation.screen_measures import MEASURES
from scgeneformer._engine.perturbation.screen_plan import draw_genes
from scgeneformer._engine.tokens import Tokens, concatenate
from scgeneformer._errors import DataError

SETTINGS = [("delete", True), ("delete", False), ("overexpress", False)]  # mode, positions held


def make_goals(width, n_states=2):
    goals = np.random.default_rng(1).normal(size=(n_states, width))
    return torch.from_numpy(goals / np.linalg.norm(goals, axis=1, keepdims=True))


@torch.inference_mode()
def run(bert, ids, positions, layer):
    """Hidden state of the stock model, (n, d)."""
    inputs = (torch.as_tensor(np.asarray(x, dtype=np.int64))[None] for x in (ids, positions))
    ids, positions = inputs
    return bert(ids, position_ids=positions, output_hidden_states=True).hidden_states[layer][0].double().numpy()


def perturbed(ids, token, mode, hold, n_lead, n_trail):
    """Tokens, positions and place before (-1: put in front) in one perturbed cell."""
    lead, trail = range(n_lead), range(len(ids) - n_trail, len(ids))
    genes = [place for place in range(n_lead, len(ids) - n_trail) if ids[place] != token]
    origin = [*lead, *([-1] if mode == "overexpress" else []), *genes, *trail]
    sequence = [token if place < 0 else ids[place] for place in origin]
    return sequence, origin if hold else range(len(origin)), origin


def effect(bert, ids, token, goals, *, layer, mode, hold, n_lead, n_trail):
    """All measures, and the shifts to the goals of `<cls>` and of the mean, from the definitions."""
    sequence, positions, origin = perturbed(ids, token, mode, hold, n_lead, n_trail)
    before, after = run(bert, ids, range(len(ids)), layer), run(bert, sequence, positions, layer)

    def cosine(a, b):
        return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)

    shared = [(i, j) for i, j in enumerate(origin) if n_lead <= j < len(ids) - n_trail]
    assert all(sequence[i] == ids[j] for i, j in shared)
    genes = [state[n_lead : len(state) - n_trail] for state in (before, after)]
    means = [state.mean(axis=0) if len(state) else np.full(state.shape[1], np.nan) for state in genes]
    shifts = {
        "genes": 1 - np.mean([cosine(after[i], before[j]) for i, j in shared]) if shared else np.nan,
        "mean": 1 - cosine(*means),
        "cls": 1 - cosine(before[0], after[0]),
    }
    cells = {"genes": means, "mean": means, "cls": (before[0], after[0])}
    return shifts, {name: cosine(cell[1], goals) - cosine(cell[0], goals) for name, cell in cells.items()}


@pytest.fixture
def bert(vocabulary):
    return use_own_kernels(make_bert(vocabulary).double()).requires_grad_(False)


@pytest.fixture
def stock(vocabulary):
    return make_bert(vocabulary).double()


def make_cell(vocabulary, n_genes, seed=0):
    genes = np.random.default_rng(seed).permutation(vocabulary.tokens)[:n_genes]
    return np.array([*[2] * vocabulary.n_lead, *genes, *[3] * vocabulary.n_trail])


def measures_of(vocabulary):
    return [measure for measure in MEASURES if measure != "cls" or vocabulary.n_lead]


@pytest.mark.parametrize(("mode", "hold"), SETTINGS)
@pytest.mark.parametrize("n_genes", [1, 2, 9, None], ids=lambda n: f"{n or 'all'} genes")
def test_with_all_genes_carried_the_screen_is_exact(bert, stock, vocabulary, mode, hold, n_genes):
    ids = make_cell(vocabulary, n_genes or vocabulary.max_genes)
    targets = np.random.default_rng(2).permutation(ids[vocabulary.n_lead : len(ids) - vocabulary.n_trail])
    if mode == "delete" and n_genes == 1 and not vocabulary.n_lead:
        pytest.skip("nothing is left of the cell")
    special = {"n_lead": vocabulary.n_lead, "n_trail": vocabulary.n_trail}
    setting = {"layer": 2, "mode": mode, "hold": hold} | special
    goals = make_goals(16)
    expected = [effect(stock, ids, token, goals.numpy(), **setting) for token in targets]
    for n_pilots in (1, 3):
        for measure in measures_of(vocabulary):
            options = {"measure": measure, "targets": targets, "n_carried": 100, "n_pilots": n_pilots, "goals": goals}
            shift, towards = screen_cell(bert, ids, n_checks=0, **setting, **options)
            np.testing.assert_allclose(shift, [e[0][measure] for e in expected], atol=1e-12, rtol=1e-10)
            np.testing.assert_allclose(towards, np.transpose([e[1][measure] for e in expected]), atol=1e-12)


def naive_screen(bert, ids, edges, layer, hold, sample, count):
    """Mean shift of the genes by deletion, as `screen.py` describes it: one query and one key at a time."""
    n = len(ids)
    references = [[j - (not hold and j >= edge and j > 0) for j in range(n)] for edge in [*edges, n]]
    whole = [
        bert(torch.tensor(ids)[None], position_ids=torch.tensor(r)[None], output_hidden_states=True) for r in references
    ]
    whole = [[state[0] for state in one.hidden_states] for one in whole]
    result = []
    for p in range(n):
        interval = sum(p >= edge for edge in edges[1:-1])
        start, stop = edges[interval], edges[interval + 1]

        def shares(j, p=p, start=start, stop=stop):
            return (
                (float(j > p), float(j < p))
                if start <= j < stop
                else ((stop - p) / (stop - start), (p - start) / (stop - start))
            )

        lower, upper, cell = whole[interval], whole[interval + 1], whole[-1]
        kept = [s for s in sample if s != p]
        token, place = torch.tensor([ids[s] for s in kept]), torch.tensor([s - (not hold and s > p) for s in kept])
        carried = list(bert.embeddings(input_ids=token[None], position_ids=place[None])[0])
        for depth, block in enumerate(bert.encoder.layer[:layer]):
            attention = block.attention.self
            new = []
            for at, state in zip(kept, carried, strict=True):
                terms = []  # (query, key, value, how often it counts)
                for j in range(n):
                    for share, one in zip(shares(j), (lower, upper), strict=True):
                        factor = share * ((j != p) - count * (j in kept))
                        terms.append((cell[depth][at], one[depth][j], factor))
                terms += [(state, other, count) for other in carried]
                context = torch.zeros(attention.num_attention_heads, attention.attention_head_size, dtype=state.dtype)
                total = torch.zeros(attention.num_attention_heads, 1, dtype=state.dtype)
                for query, key, factor in terms:
                    q, k, v = (
                        f(x).view(context.shape)
                        for f, x in ((attention.query, query), (attention.key, key), (attention.value, key))
                    )
                    weight = factor * torch.exp((q * k).sum(1, keepdim=True) / context.shape[1] ** 0.5)
                    context, total = context + weight * v, total + weight
                attended = block.attention.output((context / total).flatten(), state)
                new.append(block.output(block.intermediate(attended), attended))
            carried = new
        shift = [
            [1 - torch.cosine_similarity(one[layer][j], cell[layer][j], dim=0) for j in range(n)]
            for one in (lower, upper)
        ]
        known = [shares(j)[0] * shift[0][j] + shares(j)[1] * shift[1][j] for j in range(n)]
        found = {
            s: 1 - torch.cosine_similarity(state, cell[layer][s], dim=0) for s, state in zip(kept, carried, strict=True)
        }
        total = sum(known[j] for j in range(n) if j != p) + sum(count * (found[s] - known[s]) for s in kept)
        result.append(float(total) / (n - 1))
    return np.maximum(result, 0)


@pytest.mark.parametrize("hold", [True, False])
def test_the_estimate_equals_its_formula_by_loops(hold):
    vocabulary = make_vocabulary()
    bert = make_bert(vocabulary).double().requires_grad_(False)
    ids = make_cell(vocabulary, 10)
    sample, weights = draw_genes(ids, 3, 0, 0, seed=5)
    expected = naive_screen(bert, ids.tolist(), [0, 10] if hold else [0, 5, 10], 2, hold, sample.tolist(), weights[0])
    shift, _ = screen_cell(bert, ids, layer=2, hold=hold, n_carried=3, n_pilots=2, seed=5)
    np.testing.assert_allclose(shift, expected, rtol=1e-9)


@pytest.mark.parametrize("hold", [True, False])
def test_after_one_block_cls_is_exact_whatever_the_sample(hold):
    vocabulary = make_vocabulary(special=True)
    bert, ids = make_bert(vocabulary).double().requires_grad_(False), make_cell(vocabulary, 12)
    setting = {"layer": 1, "hold": hold, "n_lead": 1, "n_trail": 1}
    shift, _ = screen_cell(bert, ids, n_carried=2, measure="cls", **setting)
    expected = [effect(bert, ids, t, make_goals(16).numpy(), mode="delete", **setting)[0]["cls"] for t in ids[1:-1]]
    np.testing.assert_allclose(shift, expected, atol=1e-14, rtol=1e-9)


@pytest.mark.parametrize("mode", ["delete", "overexpress"])
def test_a_perturbation_that_is_checked_is_exact(bert, stock, vocabulary, mode):
    ids, goals = make_cell(vocabulary, vocabulary.max_genes), make_goals(16)
    genes = ids[vocabulary.n_lead : len(ids) - vocabulary.n_trail]
    setting = {"layer": 2, "mode": mode, "hold": False, "n_lead": vocabulary.n_lead, "n_trail": vocabulary.n_trail}
    expected = [effect(stock, ids, token, goals.numpy(), **setting) for token in genes]
    for measure in measures_of(vocabulary):
        options = {"measure": measure, "n_carried": 2, "n_pilots": 2, "goals": goals}
        shift, towards = screen_cell(bert, ids, n_checks=100, **setting, **options)
        np.testing.assert_allclose(towards, np.transpose([e[1][measure] for e in expected]), atol=1e-12)
        if measure != "genes":
            np.testing.assert_allclose(shift, [e[0][measure] for e in expected], atol=1e-12)


@pytest.fixture(scope="module")
def real():
    """`mini`, and a real cell of 100 genes."""
    model = gf.models.load("mini", device="cpu", dtype="float32")
    cells = concatenate([tokens for _, tokens, _ in open_tokens(gf.datasets.pbmc68k(), model.vocabulary).blocks()])
    return model.bert, cells[int(np.argsort(np.abs(cells.lengths - 100), kind="stable")[0])]


@torch.inference_mode()
def exact_deletions(bert, ids, hold, goals, layer=5):
    """Shift and shifts to the goals of every deletion, all cells of one packed batch."""
    n = len(ids)
    origin = np.array([np.delete(np.arange(n), p) for p in range(n)])  # (n, n - 1)
    positions = origin if hold else np.broadcast_to(np.arange(n - 1), origin.shape)
    packed = pack(Tokens(ids[origin.ravel()], np.arange(n + 1) * (n - 1)))
    packed = dataclasses.replace(packed, positions=torch.from_numpy(positions.reshape(1, -1)))
    cell = hidden_states(bert, pack(Tokens.from_lists([ids])), [layer])[layer].double()
    after = hidden_states(bert, packed, [layer])[layer].double().view(n, n - 1, -1)
    units = normalize(cell, dim=-1)
    shift = (normalize(after, dim=-1) - units[torch.from_numpy(origin)]).square().sum(-1).mean(1) / 2
    means = normalize(after.mean(1), dim=-1) - normalize(cell.mean(0), dim=-1)
    return shift.numpy(), (goals @ means.T).numpy()


@pytest.mark.parametrize("hold", [True, False])
def test_on_a_real_cell_the_estimate_ranks_genes_as_the_exact_scan_does(real, hold):
    bert, ids = real
    goals = make_goals(bert.config.hidden_size)
    exact, exact_towards = exact_deletions(bert, ids, hold, goals)
    shift, towards = screen_cell(bert, ids, layer=5, hold=hold, n_carried=24, goals=goals)
    assert spearmanr(shift, exact)[0] > 0.98
    assert len(set(np.argsort(-shift)[:30]) & set(np.argsort(-exact)[:25])) >= 24
    assert 0.7 < np.median(shift / exact) < 1.4
    for one, other in zip(towards, exact_towards, strict=True):
        assert np.corrcoef(one, other)[0, 1] > 0.95


def test_a_real_cell_gives_the_same_numbers_alone_or_gene_by_gene(real):
    bert, ids = real
    shift, _ = screen_cell(bert, ids, layer=5, n_carried=8)
    again, _ = screen_cell(bert, ids, layer=5, n_carried=8)
    np.testing.assert_array_equal(shift, again)
    some = ids[[40, 3, 77]]
    few, _ = screen_cell(bert, ids, layer=5, n_carried=8, targets=some)
    np.testing.assert_allclose(few, shift[[40, 3, 77]], rtol=1e-3)
    other, _ = screen_cell(bert, ids, layer=5, n_carried=8, seed=1)
    assert not np.allclose(other, shift, rtol=1e-3)


def test_a_gene_that_is_moved_to_where_it_is_has_no_effect(real):
    bert, ids = real
    shift, _ = screen_cell(bert, ids, layer=5, n_carried=8, mode="overexpress", targets=ids[:2])
    assert shift[0] < 1e-9 < shift[1]


def test_drawn_genes_stand_for_all_of_them_and_every_gene_has_its_chance():
    ids, often = np.arange(2, 42), np.zeros(40)
    for seed in range(2000):
        places, weights = draw_genes(ids, 7, 1, 1, seed)
        assert (np.diff(places) > 0).all()
        assert weights.sum() == pytest.approx(40)
        assert (weights[[0, -1]] == 1).all()
        assert (places[[0, -1]] == [0, 39]).all()
        often[places] += 1
    assert (often[[0, -1]] == 2000).all()
    np.testing.assert_allclose(often[1:-1] / 2000, 7 / 38, atol=0.04)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "inhibit"}, "'delete', 'overexpress'"),
        ({"mode": "overexpress", "hold": True}, "positions='shift'"),
        ({"measure": "cls"}, "'genes', 'mean'"),
        ({"n_carried": 0}, "n_carried=0"),
        ({"n_pilots": 0}, "n_pilots=0"),
        ({"n_checks": -1}, "n_checks=-1"),
        ({"targets": np.array([10**6])}, "not in the cell cannot be screened: 1000000"),
        ({"targets": np.array([10**6]), "mode": "overexpress"}, "not in the cell cannot be screened: 1000000"),
    ],
)
def test_what_cannot_be_is_refused(real, options, said):
    bert, ids = real
    with pytest.raises(DataError, match=said):
        screen_cell(bert, ids, layer=1, **options)


def test_half_precision_is_refused():
    bert = make_bert(make_vocabulary()).to(torch.bfloat16)
    with pytest.raises(DataError, match="float32"):
        screen_cell(bert, np.arange(2, 9), layer=1)
