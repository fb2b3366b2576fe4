from types import SimpleNamespace

import numpy as np
import pytest
import torch
from toys import make_bert, make_vocabulary

from scgeneformer._engine import attention
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import hidden_states, resolve_layer, use_own_kernels
from scgeneformer._engine.forward import forward
from scgeneformer._engine.packing import pack
from scgeneformer._engine.pooling import POOLINGS, get_pooling
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import DataError

N_BLOCKS = 3


@pytest.fixture
def cells(vocabulary):
    """Cells of 1 to 16 tokens, the special ones in place."""
    rng = np.random.default_rng(0)
    lead, trail = [2] * vocabulary.n_lead, [3] * vocabulary.n_trail
    sizes = [1, 5, vocabulary.max_genes, 2, 9, 3]
    return Tokens.from_lists([[*lead, *rng.choice(vocabulary.tokens, n, replace=False), *trail] for n in sizes])


@pytest.fixture
def oracle(vocabulary, cells):
    """All hidden states of the stock BertModel, one cell at a time: [cell][layer] -> (n, d)."""
    bert = make_bert(vocabulary)
    with torch.no_grad():
        runs = [
            bert(torch.tensor(cells[i][None].astype(np.int64)), output_hidden_states=True) for i in range(len(cells))
        ]
    return [[state[0].numpy() for state in run.hidden_states] for run in runs]


@pytest.fixture
def bert(vocabulary):
    return use_own_kernels(make_bert(vocabulary))


def test_every_hidden_layer_equals_the_stock_model_cell_by_cell(bert, cells, oracle):
    with torch.inference_mode():
        states = hidden_states(bert, pack(cells), range(N_BLOCKS + 1))
    for layer in range(N_BLOCKS + 1):
        expected = np.concatenate([cell[layer] for cell in oracle])
        np.testing.assert_allclose(states[layer].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("amx", [False, True], ids=["products", "fused"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_points_where_float32_does(bert, cells, oracle, dtype, amx, monkeypatch):
    monkeypatch.setattr(attention, "HAS_AMX", amx)
    with torch.inference_mode():
        states = hidden_states(bert.to(dtype), pack(cells), [2])[2].float()
    expected = torch.tensor(np.concatenate([cell[2] for cell in oracle]))
    assert torch.cosine_similarity(states, expected).min() > 0.999


def test_blocks_behind_the_last_layer_are_not_run(bert, cells):
    runs = []
    for depth, block in enumerate(bert.encoder.layer, start=1):
        block.register_forward_hook(lambda *_, depth=depth: runs.append(depth))
    hidden_states(bert, pack(cells), [0])
    assert runs == []
    hidden_states(bert, pack(cells), [0, 2])
    assert runs == [1, 2]


def test_training_gradients_equal_those_of_the_stock_model(vocabulary, cells):
    packed, stock = use_own_kernels(make_bert(vocabulary)), make_bert(vocabulary)
    hidden_states(packed, pack(cells), [N_BLOCKS])[N_BLOCKS].pow(2).sum().backward()
    for i in range(len(cells)):
        stock(torch.tensor(cells[i][None].astype(np.int64))).last_hidden_state.pow(2).sum().backward()
    for (name, one), other in zip(packed.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-3, msg=name)


def pooled_by_hand(oracle, vocabulary, layer, pooling):
    genes = slice(vocabulary.n_lead, -1 if vocabulary.n_trail else None)
    return np.stack([cell[layer][genes].mean(axis=0) if pooling == "mean" else cell[layer][0] for cell in oracle])


@pytest.mark.parametrize("budget", [1, 20, 10_000])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_cell_embeddings_equal_pooling_by_hand_whatever_the_batches(bert, vocabulary, cells, oracle, budget, pooling):
    found = embed_cells([(0, cells)], len(cells), [bert], vocabulary, [0, 2], POOLINGS[pooling], budget)
    for layer in (0, 2):
        np.testing.assert_allclose(found[layer], pooled_by_hand(oracle, vocabulary, layer, pooling), atol=1e-5)


def test_cls_is_the_first_token_of_a_model_that_has_one(cells):
    vocabulary = make_vocabulary(special=True)
    bert = use_own_kernels(make_bert(vocabulary))
    tokens = Tokens.from_lists([[2, 7, 8, 3], [2, 9, 3]])
    found = embed_cells([(0, tokens)], 2, [bert], vocabulary, [1], get_pooling("cls", vocabulary), 100)[1]
    states = hidden_states(bert, pack(tokens), [1])[1].detach().numpy()
    np.testing.assert_allclose(found, states[[0, 4]], atol=1e-6)


def test_rows_keep_their_place_over_blocks_and_empty_cells_are_nan(bert, vocabulary, cells, oracle):
    order = np.array([3, 0, 5, 1])
    empty = Tokens.from_lists([[]])
    blocks = [(0, empty), (1, cells.take(order)), (5, Tokens.from_lists([[], cells[4], []]))]
    done = []
    found = embed_cells(blocks, 8, [bert], vocabulary, [2], POOLINGS["mean"], 12, done.append)[2]
    assert np.isnan(found[[0, 5, 7]]).all()
    expected = pooled_by_hand(oracle, vocabulary, 2, "mean")[[*order, 4]]
    np.testing.assert_allclose(found[[1, 2, 3, 4, 6]], expected, atol=1e-5)
    assert sum(done) == 5


def test_no_cells_give_no_rows(bert, vocabulary):
    found = embed_cells([], 0, [bert], vocabulary, [1], POOLINGS["mean"], 8)
    assert found[1].shape == (0, 16)


def test_a_batch_never_holds_more_than_the_budget(bert, cells):
    for batch in forward([(0, cells)], bert, [1], 12):
        assert batch.packed.n_tokens <= 12 or len(batch.cells) == 1


@pytest.mark.parametrize(("layer", "expected"), [(0, 0), (3, 3), (-1, 3), (-2, 2), (-4, 0), (np.int64(-2), 2)])
def test_layers_count_from_both_ends(layer, expected):
    assert resolve_layer(layer, N_BLOCKS) == expected


@pytest.mark.parametrize("layer", [4, -5, 0.5, True, "last", None])
def test_a_layer_out_of_range_is_refused_with_the_range(layer):
    with pytest.raises(DataError, match=r"0 \(embedding output\) to 3 \(last\).*-1 \(last\) to -4"):
        resolve_layer(layer, N_BLOCKS)


def test_a_layer_of_the_anndata_is_told_from_one_of_the_model():
    with pytest.raises(DataError, match=r"layer='counts' does not exist: .*The layer of .* counts is counts_layer=\."):
        resolve_layer("counts", N_BLOCKS)


def test_a_pooling_that_cannot_be_is_refused():
    with pytest.raises(DataError, match="'mean', 'cls', 'first'"):
        get_pooling("max", make_vocabulary())
    with pytest.raises(DataError, match="has none"):
        get_pooling("cls", make_vocabulary())


@pytest.mark.parametrize(
    ("amx", "dtype", "chosen"),
    [
        (True, torch.bfloat16, "_per_cell"),
        (True, torch.float16, "_matrix_products"),
        (False, torch.bfloat16, "_matrix_products"),
        (False, torch.float32, "_per_cell"),
    ],
)
def test_bfloat16_is_attended_by_the_fused_kernel_where_the_processor_has_amx(monkeypatch, amx, dtype, chosen):
    monkeypatch.setattr(attention, "HAS_AMX", amx)
    assert attention._variant(torch.zeros(1, 1, 1, 8, dtype=dtype), 0.0) is getattr(attention, chosen)


@pytest.mark.parametrize(
    ("dtype", "width", "generation", "dropout", "chosen"),
    [
        (torch.bfloat16, 64, (9, 0), 0.0, "_flash"),
        (torch.float16, 64, (8, 0), 0.1, "_flash"),
        (torch.float16, 64, (7, 5), 0.0, "_efficient"),
        (torch.float16, 64, (7, 5), 0.1, "_padded"),
        (torch.float32, 64, (9, 0), 0.0, "_efficient"),
        (torch.float32, 64, (9, 0), 0.1, "_padded"),
        (torch.float32, 4, (9, 0), 0.0, "_per_cell"),
        (torch.bfloat16, 4, (9, 0), 0.0, "_per_cell"),
        (torch.bfloat16, 4, (9, 0), 0.1, "_padded"),
        (torch.bfloat16, 64, (7, 5), 0.0, "_per_cell"),
        (torch.bfloat16, 320, (9, 0), 0.0, "_efficient"),
    ],
)
def test_a_gpu_attends_within_the_cells_by_what_it_can_run(monkeypatch, dtype, width, generation, dropout, chosen):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: generation)
    monkeypatch.setattr(attention, "is_flash_attention_available", lambda: True)
    query = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), dtype=dtype, shape=(1, 4, 300, width))
    assert attention._variant(query, dropout) is getattr(attention, chosen)


def test_a_build_of_torch_without_flash_attention_does_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "is_flash_attention_available", lambda: False)
    query = SimpleNamespace(is_cuda=True, device=torch.device("cuda"), dtype=torch.float16, shape=(1, 4, 300, 64))
    assert attention._variant(query, 0.0) is attention._efficient
    assert attention._variant(query, 0.1) is attention._padded


def test_attention_of_padded_cells_and_its_gradients_are_those_of_each_cell():
    generator, packed = torch.Generator().manual_seed(0), pack(Tokens.from_lists([range(n) for n in (5, 1, 9, 3)]))
    query, key, value = (torch.randn(1, 18, 3, 8, generator=generator, requires_grad=True) for _ in range(3))
    results = []
    for variant in (attention._per_cell, attention._padded):
        out = variant(*(x.transpose(1, 2) for x in (query, key, value)), packed, 0.3, 0.0)
        results.append([out, *torch.autograd.grad(out.square().sum(), (query, key, value))])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)
