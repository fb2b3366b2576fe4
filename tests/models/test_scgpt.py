"""Directories of scGPT: a model written after the description of theirs is saved as they save it, and must agree."""

import json

import anndata as ad
import numpy as np
import pytest
import torch
from torch import nn
from toys import make_adata

import scgeneformer as gf
from scgeneformer import models
from scgeneformer._adata.tokens import open_tokens
from scgeneformer._engine.value_bins import ValueBinned
from scgeneformer._errors import DataError, ModelError

WIDTH, BLOCKS, HEADS, HIDDEN = 32, 2, 4, 48
ARGS = {
    "embsize": WIDTH,
    "nlayers": BLOCKS,
    "nheads": HEADS,
    "d_hid": HIDDEN,
    "dropout": 0.2,
    "n_bins": 51,
    "max_seq_len": 30,
    "pad_value": -2,
    "mask_value": -1,
    "input_style": "binned",
    "input_emb_style": "continuous",
}
GENES = [f"G{i}" for i in range(40)]


class Genes(nn.Module):
    def __init__(self, n_tokens):
        super().__init__()
        self.embedding, self.enc_norm = nn.Embedding(n_tokens, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, genes):
        return self.enc_norm(self.embedding(genes))


class Values(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear1, self.linear2, self.norm = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, values):
        return self.norm(self.linear2(self.linear1(values.clamp(max=512)[..., None]).relu()))


class Twin(nn.Module):
    """Genes + values, then post-norm transformer blocks; a decoder that no embedding depends on."""

    def __init__(self, n_tokens):
        super().__init__()
        self.encoder, self.value_encoder = Genes(n_tokens), Values()
        block = nn.TransformerEncoderLayer(WIDTH, HEADS, HIDDEN, 0.2, batch_first=True)
        self.transformer_encoder = nn.TransformerEncoder(block, BLOCKS, enable_nested_tensor=False)
        self.decoder = nn.Linear(WIDTH, 1)

    def forward(self, genes, values):
        return self.transformer_encoder(self.encoder(genes) + self.value_encoder(values))


def make_twin(n_tokens):
    torch.manual_seed(0)
    twin = Twin(n_tokens).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return twin


def write(folder, names, tensors, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "args.json").write_text(json.dumps({k: v for k, v in (ARGS | changes).items() if v is not None}))
    (folder / "vocab.json").write_text(json.dumps({name: row for row, name in enumerate(names)}))
    torch.save(tensors, folder / "best_model.pt")
    return folder


NAMES = [*GENES[::-1], "<pad>", "<cls>", "<eoc>"]  # special tokens behind the genes, as scGPT has them


@pytest.fixture
def twin():
    return make_twin(len(NAMES))


@pytest.fixture
def folder(tmp_path, twin):
    return write(tmp_path / "scGPT", NAMES, twin.state_dict())


def theirs(adata, model, twin, names=NAMES):
    """The ``<cls>`` output of the twin, one cell at a time, which carries the value -2."""
    vocabulary = model.vocabulary
    name_of = {token: name for name, token in vocabulary.special.items()}
    name_of |= dict(zip(vocabulary.tokens.tolist(), vocabulary.symbols.tolist(), strict=True))
    tokens = next(open_tokens(adata, vocabulary, stored=False).blocks())[1]
    found = []
    for cell in range(len(tokens)):
        some = tokens.slice(cell, cell + 1)
        genes = torch.tensor([[names.index(name_of[token]) for token in some.ids.tolist()]])
        values = torch.from_numpy(some.positions.astype(np.float32))[None]
        assert name_of[int(some.ids[0])] == "<cls>"
        values[0, 0] = -2
        with torch.inference_mode():
            found.append(twin(genes, values)[0, 0].numpy())
    return np.stack(found)


def ours(adata, model):
    return gf.tl.embed_cells(adata, model, layer=-1, pooling="cls", copy=True).obsm["X_geneformer"]


SAVED = {
    "torch": lambda name: name,
    "flash attention": lambda name: name.replace("in_proj_", "Wqkv."),
    "wrapped": lambda name: name.replace("in_proj_", "_impl.Wqkv.").replace("out_proj", "_impl.out_proj"),
    "parallel": lambda name: f"module.{name}",
}


@pytest.mark.parametrize("how", SAVED)
def test_embeddings_are_those_of_scgpt(tmp_path, twin, how):
    tensors = {SAVED[how](name): tensor for name, tensor in twin.state_dict().items()}
    model = models.load(write(tmp_path / "m", NAMES, tensors), device="cpu")
    adata = make_adata(20)
    np.testing.assert_allclose(ours(adata, model), theirs(adata, model, twin), atol=1e-5)


def test_embeddings_of_real_cells_are_those_of_scgpt(tmp_path, shared):
    adata = ad.read_h5ad(shared / "data" / "kang18_ifnb_2k.h5ad")[:20].copy()
    names = [*adata.var["symbol"].astype(str).unique(), "<pad>", "<cls>", "<eoc>"]
    twin = make_twin(len(names))
    model = models.load(write(tmp_path / "m", names, twin.state_dict(), max_seq_len=None), device="cpu")
    assert model.vocabulary.input_size == 1200
    np.testing.assert_allclose(ours(adata, model), theirs(adata, model, twin, names), atol=1e-5)


def test_a_directory_of_scgpt_gives_model_and_vocabulary(folder):
    model = models.load(folder, device="cpu")
    assert (model.name, model.n_blocks, model.width) == ("scGPT", BLOCKS, WIDTH)
    vocabulary = model.vocabulary
    assert vocabulary.special == {"<pad>": 0, "<cls>": 1, "<eoc>": 2}
    assert vocabulary.symbols.tolist() == GENES[::-1]
    assert vocabulary.encoding == ValueBinned(51)
    assert (vocabulary.input_size, vocabulary.max_genes) == (30, 29)
    assert models.load_vocabulary(folder) is vocabulary
    assert models.load(folder, device="cpu") is model


def test_special_tokens_that_are_absent_are_behind_all_others(tmp_path):
    twin = make_twin(43)
    model = models.load(write(tmp_path / "m", GENES, twin.state_dict()), device="cpu")
    adata = make_adata()
    expected = theirs(adata, model, twin, [*GENES, "<pad>", "<cls>", "<eoc>"])
    np.testing.assert_allclose(ours(adata, model), expected, atol=1e-5)


def test_the_sum_of_embeddings_has_no_layer_norm(folder, twin):
    """Also in copies, in our own form, and in what is trained from it."""
    model = models.load(folder, device="cpu")
    saved = models.load(models.save(model, folder.parent / "saved"), device="cpu")
    assert (folder.parent / "saved" / "genes.tsv").is_file()
    trained = gf.tl.train_classifier(
        *(make_adata(), "cell_type", folder), out=folder.parent / "t", epochs=1, fractions=(0.7, 0.3, 0.0)
    )
    for other in (model, saved, models.load(trained.folder, device="cpu")):
        assert isinstance(other.bert.embeddings.LayerNorm, nn.Identity)
        assert other.vocabulary.encoding == ValueBinned(51)
    adata = make_adata()
    np.testing.assert_array_equal(ours(adata, saved), ours(adata, model))
    half = models.load(folder, device="cpu", dtype="bfloat16")
    np.testing.assert_allclose(ours(adata, half), ours(adata, model), atol=0.1)


def test_it_is_no_classifier_and_predicts_no_masked_genes(folder):
    with pytest.raises(ModelError, match="is no classifier"):
        gf.tl.classify(make_adata(), folder)
    with pytest.raises(DataError, match=r"works on the order of a cell's genes.*'value-binned'"):
        gf.tl.score_masked_genes(make_adata(), folder)


CANNOT = {
    "pre_norm": ({"pre_norm": True}, r"pre_norm=True, and .* cannot be run: its blocks normalise before attention"),
    "category": ({"input_emb_style": "category"}, "input_emb_style='category'.*embedded in another way"),
    "log1p": ({"input_style": "log1p"}, "input_style='log1p'.*values that are no bins"),
    "no width": ({"embsize": None}, "gives no usable embsize: None"),
    "bins": ({"n_bins": "51"}, "gives no usable n_bins: '51'"),
    "pad_value": ({"pad_value": "x"}, "gives no usable pad_value: 'x'"),
    "another width": ({"d_hid": 40}, r"intermediate\.dense\.weight of .* is \(48, 32\)"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_options_that_cannot_be_run_are_named(folder, twin, kind):
    changes, text = CANNOT[kind]
    write(folder, NAMES, twin.state_dict(), **changes)
    with pytest.raises(ModelError, match=text):
        models.load(folder, device="cpu")


@pytest.mark.parametrize(
    ("added", "text"),
    [
        ("dsbn.bns.0.weight", r"cannot be run: it normalises embeddings by batch"),
        ("bn.weight", "normalises embeddings over a batch"),
        ("mod_encoder.embedding.weight", "modality"),
    ],
)
def test_weights_that_cannot_be_run_are_named(folder, twin, added, text):
    write(folder, NAMES, {**twin.state_dict(), added: torch.ones(3)})
    with pytest.raises(ModelError, match=text):
        models.load(folder, device="cpu")


def test_batch_labels_that_only_decoders_read_do_no_harm(folder, twin):
    write(folder, NAMES, {**twin.state_dict(), "batch_encoder.embedding.weight": torch.ones(3, WIDTH)})
    adata = make_adata()
    model = models.load(folder, device="cpu")
    np.testing.assert_allclose(ours(adata, model), theirs(adata, model, twin), atol=1e-5)


DAMAGES = {
    "no vocabulary": (lambda f: (f / "vocab.json").unlink(), r"has no vocabulary beside its config: no vocab\.json"),
    "no weights": (lambda f: (f / "best_model.pt").unlink(), r"has no weights: no best_model\.pt"),
    "args are no JSON": (lambda f: (f / "args.json").write_text("{"), r"args\.json is not readable JSON"),
    "a list": (lambda f: (f / "vocab.json").write_text("[]"), "holds a list, not names"),
    "a row twice": (lambda f: (f / "vocab.json").write_text('{"G1": 1, "G2": 1}'), "does not number its tokens"),
    "fewer genes": (
        lambda f: (f / "vocab.json").write_text('{"G1": 0, "G2": 1}'),
        "does not fit the weights: .* has 5 tokens, .* 43",
    ),
    "a tensor": (
        lambda f: torch.save({"x": torch.ones(2)}, f / "best_model.pt"),
        r"lacks the tensor encoder\.embedding\.weight; is it a model of scGPT",
    ),
    "a program": (lambda f: torch.save({"x": nn.Linear(2, 2)}, f / "best_model.pt"), "Nothing in it was executed"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_one_clear_error(folder, kind):
    harm, text = DAMAGES[kind]
    harm(folder)
    with pytest.raises(ModelError, match=text):
        models.load(folder, device="cpu")


def test_symbols_in_any_case_are_found(folder):
    adata = make_adata()
    adata.var_names = adata.var_names.str.lower()
    del adata.var["ensembl_id"]
    np.testing.assert_array_equal(ours(adata, folder), ours(make_adata(), folder))


def test_genes_of_mice_are_refused_though_their_symbols_match_in_upper_case(tmp_path):
    names = ["GAPDH", "ACTB", "CD3E", "<pad>", "<cls>", "<eoc>"]
    model = models.load(write(tmp_path / "m", names, make_twin(len(names)).state_dict()), device="cpu")
    adata = ad.AnnData(np.ones((2, 3), dtype=np.float32))
    adata.var_names = ["Gapdh", "Actb", "Cd3e"]
    with pytest.raises(DataError, match=r"those of mouse or rat .* knows those of human"):
        gf.tl.embed_cells(adata, model)
    adata.var_names = ["GAPDH", "ACTB", "CD3E"]
    gf.tl.embed_cells(adata, model)
