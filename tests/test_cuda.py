"""The same numbers on a GPU as on a CPU; everything here needs one."""

import numpy as np
import pytest
import torch
from toys import make_adata, make_bert, make_model, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine import attention
from scgeneformer._engine.cost import choose_tokens_per_batch
from scgeneformer._engine.embedding import embed_cells
from scgeneformer._engine.encoder import hidden_states, use_own_kernels
from scgeneformer._engine.packing import pack
from scgeneformer._engine.pooling import pool_mean
from scgeneformer._engine.tokens import Tokens

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# smallest cosine and largest difference (share of the largest value) of cell embeddings, beside float32 on a CPU
AGREEMENT = {"float32": (0.999999, 1e-4), "tf32": (0.9999, 5e-3), "bfloat16": (0.999, 5e-2), "float16": (0.9999, 1e-2)}


@pytest.fixture(scope="module")
def cells():
    return gf.datasets.pbmc68k()[:60].copy()


def close(found, expected, dtype):
    cosine, share = AGREEMENT[dtype]
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()
    lengths = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert ((found * expected).sum(axis=-1) / lengths).min() >= cosine


@pytest.mark.parametrize("dtype", AGREEMENT)
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_cell_embeddings_are_those_of_the_cpu(cells, dtype, pooling):
    one = gf.tl.embed_cells(cells, "mini", device="cpu", pooling=pooling, copy=True)
    other = gf.tl.embed_cells(cells, "mini", device="cuda", dtype=dtype, pooling=pooling, copy=True)
    close(other.obsm["X_geneformer"], one.obsm["X_geneformer"], dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("width", [16, 64, 256])
def test_every_layer_of_packed_cells_is_that_of_the_stock_model_cell_by_cell(dtype, width):
    vocabulary = make_vocabulary(600, input_size=512)
    rng = np.random.default_rng(0)
    tokens = Tokens.from_lists([rng.permutation(vocabulary.tokens)[:n] for n in (1, 511, 64, 65, 7, 300)])
    stock, twin = (make_bert(vocabulary, width=width) for _ in range(2))
    for parameter in (*stock.parameters(), *twin.parameters()):
        parameter.data *= (16 / width) ** 0.5 if parameter.ndim == 2 else 1  # states of the same size at every width
    stock, twin = stock.cuda(), use_own_kernels(twin).to("cuda", getattr(torch, dtype))
    with torch.inference_mode():
        found = hidden_states(twin, pack(tokens, "cuda"), range(4))
        for i in range(len(tokens)):
            ids = torch.from_numpy(tokens[i].astype(np.int64))[None].cuda()
            for layer, expected in enumerate(stock(ids, output_hidden_states=True).hidden_states):
                own = found[layer][tokens.offsets[i] : tokens.offsets[i + 1]]
                close(own.float().cpu().numpy(), expected[0].cpu().numpy(), dtype)


@pytest.mark.parametrize(
    ("kernel", "dtype"),
    [("_flash", "bfloat16"), ("_flash", "float16"), ("_efficient", "float32"), ("_efficient", "float16")],
)
@pytest.mark.parametrize("width", [8, 32, 64])
def test_attention_of_all_cells_at_once_and_its_gradients_are_those_of_each_cell(kernel, dtype, width):
    generator = torch.Generator("cuda").manual_seed(0)
    packed = pack(Tokens.from_lists([range(n) for n in (5, 1, 300, 64)]), "cuda")
    parts = [torch.randn(1, 370, 3, width, generator=generator, device="cuda") for _ in range(3)]
    results = []
    for variant, numbers in ((attention._per_cell, "float32"), (getattr(attention, kernel), dtype)):
        own = [x.to(getattr(torch, numbers)).requires_grad_() for x in parts]
        out = variant(*(x.transpose(1, 2) for x in own), packed, width**-0.5, 0.0)
        results.append([x.detach().float().cpu() for x in (out, *torch.autograd.grad(out.float().square().sum(), own))])
    for one, other in zip(*results, strict=True):
        close(other.flatten().numpy(), one.flatten().numpy(), dtype)


DROPPING = [("_flash", "bfloat16"), ("_flash", "float16"), ("_padded", "float32"), ("_padded", "float16")]


@pytest.mark.parametrize(("kernel", "dtype"), DROPPING)
def test_dropout_drops_the_share_that_was_asked_for(kernel, dtype):
    packed = pack(Tokens.from_lists([range(n) for n in (256, 128)]), "cuda")
    query, key, value = (torch.full((1, 4, 384, 32), x, device="cuda", dtype=getattr(torch, dtype)) for x in (0, 0, 1))
    torch.manual_seed(0)
    out = getattr(attention, kernel)(query, key, value, packed, 1.0, 0.25)[..., 0].float()  # share of weights kept
    assert abs(out.mean().item() - 1) < 0.01
    spread = torch.stack([out[0, :256].std(), out[0, 256:].std()]).cpu()
    torch.testing.assert_close(spread, (0.25 / 0.75 / torch.tensor([256.0, 128.0])).sqrt(), rtol=0.1, atol=0)


@pytest.mark.parametrize(("kernel", "dtype"), DROPPING)
def test_backward_the_same_weights_are_dropped(kernel, dtype):
    generator = torch.Generator("cuda").manual_seed(0)
    packed = pack(Tokens.from_lists([range(n) for n in (200, 100)]), "cuda")
    query, key, value, other = (
        torch.randn(1, 4, 300, 32, generator=generator, device="cuda").to(getattr(torch, dtype)).requires_grad_()
        for _ in range(4)
    )
    results = []
    for values in (value, other):
        torch.manual_seed(1)
        results.append(getattr(attention, kernel)(query, key, values, packed, 0.2, 0.25))
    of_other = results[1].detach()
    (of_value,) = torch.autograd.grad(results[0], value, of_other)
    # the output is a linear map of the values, and the gradient its transpose, if both drop the same weights
    expected, found = of_other.double().square().sum().item(), (of_value.double() * other).sum().item()
    assert found == pytest.approx(expected, rel=1e-4 if dtype == "float32" else 1e-2)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_nothing_waits_for_the_device_while_batches_are_queued():
    vocabulary = make_vocabulary(600, input_size=512)
    bert = use_own_kernels(make_bert(vocabulary, width=64)).to("cuda", torch.bfloat16)
    rng = np.random.default_rng(0)
    tokens = Tokens.from_lists([rng.permutation(vocabulary.tokens)[:n] for n in rng.integers(1, 512, 64)])
    embed = [(0, tokens)], 64, [bert], vocabulary, [2], pool_mean, 4096
    expected = embed_cells(*embed)[2]
    torch.cuda.set_sync_debug_mode("error")
    try:
        np.testing.assert_array_equal(embed_cells(*embed)[2], expected)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_fit_and_are_halved_where_they_do_not(log):
    cells, model = gf.datasets.pbmc68k(), gf.models.load("mini", device="cuda")
    assert choose_tokens_per_batch(model.bert, None) >= 4096
    one = gf.tl.embed_cells(cells, model, copy=True)
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 96 * 2**20) / total)
    try:
        other = gf.tl.embed_cells(cells, model, tokens_per_batch=10**6, copy=True)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "as many per batch" in log()
    close(other.obsm["X_geneformer"], one.obsm["X_geneformer"], "bfloat16")


def test_gene_embeddings_are_those_of_the_cpu(cells):
    kept = [
        gf.tl.embed_genes(cells, "mini", groupby="cell_type", device=device, dtype="float32", copy=True)
        for device in ("cpu", "cuda")
    ]
    for key, expected in kept[0].varm.items():
        np.testing.assert_allclose(kept[1].varm[key], expected, atol=2e-4, err_msg=key)


def test_perturbations_are_those_of_the_cpu(cells):
    one, other = (
        gf.tl.perturb(cells[:2].copy(), model="mini", device=device, dtype="float32", copy=True)
        for device in ("cpu", "cuda")
    )
    assert len(one.layers) == 2
    for key, expected in one.layers.items():
        np.testing.assert_allclose(other.layers[key].data, expected.data, atol=1e-5, err_msg=key)


def test_attention_is_that_of_the_cpu(cells):
    one, other = (
        gf.tl.attention(cells[:10].copy(), "mini", device=device, dtype="float32", copy=True)
        for device in ("cpu", "cuda")
    )
    for key in one.varp:
        a, b = one.varp[key], other.varp[key]
        assert abs(a - b).max() < 1e-4


def test_several_devices_give_the_numbers_of_one(adata):
    toy = make_model()
    one = gf.tl.embed_cells(adata, toy, device="cpu", copy=True)
    other = gf.tl.embed_cells(adata, toy, device=["cuda", "cpu"], dtype="float32", copy=True)
    close(other.obsm["X_geneformer"], one.obsm["X_geneformer"], "float32")
    every = gf.tl.embed_cells(make_adata(), toy, device="cuda:all", dtype="float32", copy=True)
    close(every.obsm["X_geneformer"], one.obsm["X_geneformer"], "float32")
