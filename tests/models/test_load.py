import json
import os
import pickle
import re

import numpy as np
import pytest
import torch

from scgeneformer import models
from scgeneformer._engine.encoder import hidden_states
from scgeneformer._engine.packing import pack
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import ModelError
from scgeneformer.models import _weights
from scgeneformer.settings import settings

from .conftest import config, masked_lm, vocabulary, write_pickles, write_weights


def states(model, tokens, layer):
    with torch.inference_mode():
        return hidden_states(model.bert, pack(tokens), [layer])[layer].float().numpy()


TOKENS = Tokens.from_lists([[2, 9, 8, 7, 30, 3], [2, 11, 3], [2, *range(4, 34), 3]])


def test_loads_the_reference_layout(checkpoint):
    model = models.load(checkpoint, device="cpu")
    assert (model.name, model.source, model.revision) == ("tiny", str(checkpoint), "")
    assert model.folder == checkpoint
    assert re.fullmatch("[0-9a-f]{64}", model.checksum)
    assert (model.n_blocks, model.width, model.dtype, model.device) == (2, 16, torch.float32, torch.device("cpu"))
    assert model.n_parameters == 16 * (34 + 64 + 2) + 32 + 2 * 2224
    assert model.vocabulary.input_size == 64
    assert "tiny: 2 blocks, width 16" in repr(model)


def test_the_encoder_is_ready_for_packed_inference(checkpoint):
    bert = models.load(checkpoint, device="cpu").bert
    assert bert.pooler is None
    assert not bert.training
    assert not any(p.requires_grad or p.is_meta for p in bert.parameters())
    assert not any(b.is_meta for b in bert.buffers())
    assert bert.config._attn_implementation == "scgeneformer_packed"


def test_hidden_states_are_those_of_the_stock_model(checkpoint):
    model = models.load(checkpoint, device="cpu")
    stock = masked_lm(config(34)).bert
    for cell in range(len(TOKENS)):
        with torch.inference_mode():
            expected = stock(torch.tensor(TOKENS[cell][None])).last_hidden_state[0].numpy()
        np.testing.assert_allclose(states(model, TOKENS.slice(cell, cell + 1), 2), expected, atol=1e-5)
    assert states(model, TOKENS, 2).shape == (len(TOKENS.ids), 16)


@pytest.mark.parametrize("kind", ["plain", "bin", "position_ids", "classifier"])
def test_encoders_load_in_all_ways_in_which_they_are_saved(tmp_path, kind):
    from safetensors.torch import save_file

    settings_, folder = config(34), write_pickles(tmp_path / kind)
    expected = masked_lm(settings_).state_dict()
    encoder = {k: t for k, t in expected.items() if k.startswith("bert.")}
    (folder / "config.json").write_text(json.dumps(settings_))
    constant = torch.arange(64).expand(1, -1).contiguous()
    saved = {
        "plain": {k.removeprefix("bert."): t for k, t in encoder.items()}
        | {"pooler.dense.weight": torch.zeros(16, 16)},
        "bin": expected,
        "position_ids": expected | {"bert.embeddings.position_ids": constant},
        "classifier": encoder | {"classifier.weight": torch.zeros(3, 16), "bert.pooler.dense.bias": torch.zeros(16)},
    }[kind]
    if kind == "bin":
        torch.save(saved, folder / "pytorch_model.bin")
    else:
        save_file({k: t.clone() for k, t in saved.items()}, folder / "model.safetensors")
    state = models.load(folder, device="cpu").bert.state_dict()
    assert set(state) == {k.removeprefix("bert.") for k in encoder}
    assert all(torch.equal(state[k.removeprefix("bert.")], t) for k, t in encoder.items())


def test_nothing_is_printed(checkpoint, capfd):
    models.load(checkpoint, device="cpu")
    assert capfd.readouterr() == ("", "")


def test_weights_do_not_depend_on_the_file_afterwards(checkpoint):
    model = models.load(checkpoint, device="cpu")
    before = states(model, TOKENS, 2)
    with open(checkpoint / "model.safetensors", "r+b") as file:
        file.truncate(100)
    np.testing.assert_array_equal(states(model, TOKENS, 2), before)


def test_our_own_layout_loads(ours):
    model = models.load(str(ours), device="cpu")
    assert model.vocabulary.aliases == {"OLDGENE": vocabulary().ensembl_ids[0]}
    assert model.vocabulary.special == vocabulary().special


def test_dictionaries_may_lie_elsewhere(tmp_path):
    folder, dictionaries = write_weights(tmp_path / "bare"), write_pickles(tmp_path / "dictionaries")
    with pytest.raises(ModelError, match=r"bare has no vocabulary.*dictionaries='\.\.\.'"):
        models.load(folder, device="cpu")
    assert models.load(folder, dictionaries=dictionaries, device="cpu").vocabulary.n_tokens == 34
    with pytest.raises(ModelError, match="holds no vocabulary"):
        models.load(folder, dictionaries=tmp_path, device="cpu")


def test_the_vocabulary_must_have_the_size_of_the_embedding_matrix(tmp_path):
    folder = write_pickles(write_weights(tmp_path / "m"), n_genes=29)
    with pytest.raises(ModelError, match=r"weights look like neither V1 nor V2 \(34 tokens\).*V2 \(33 tokens\)"):
        models.load(folder, device="cpu")


def test_the_vocabulary_may_not_be_longer_than_the_positions(ours):
    (ours / "geneformer.json").write_text((ours / "geneformer.json").read_text().replace("64", "65"))
    with pytest.raises(ModelError, match=r"65 tokens per cell.*64 positions"):
        models.load(ours, device="cpu")


@pytest.mark.parametrize(("weights", "dictionaries"), [("V1", "V2"), ("V2", "V1")])
def test_dictionaries_of_the_other_generation_are_named(shared, weights, dictionaries):
    sizes = {"V1": "25,426", "V2": "20,275"}
    text = rf"look like {weights} \({sizes[weights]} tokens\), .* like {dictionaries} \({sizes[dictionaries]} tokens\)"
    with pytest.raises(ModelError, match=text):
        models.load(
            shared / "goldens" / "checkpoints" / f"{weights.lower()}_small",
            dictionaries=shared / "dictionaries" / dictionaries,
            device="cpu",
        )


@pytest.mark.parametrize("kind", ["V1", "V2"])
def test_checkpoints_of_the_reference_load(shared, kind):
    model = models.load(
        shared / "goldens" / "checkpoints" / f"{kind.lower()}_small",
        dictionaries=shared / "dictionaries" / kind,
        device="cpu",
    )
    golden = np.load(shared / "goldens" / f"lung_6cells_{kind}.npz")
    tokens = Tokens(golden["tokens"].astype(np.int32), golden["token_offsets"].astype(np.int64)).slice(0, 2)
    hidden, skip = states(model, tokens, 2), int(kind == "V2")
    means = [hidden[a + skip : b - skip].mean(axis=0) for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False)]
    np.testing.assert_allclose(means, golden["cell_second_to_last"][:2], atol=1e-5)


def test_names_and_shapes_are_those_of_a_real_checkpoint(shared, tmp_path):
    stem = shared / "goldens" / "Geneformer-V2-104M_BertForSequenceClassification"
    header = json.loads(stem.with_name(stem.name + ".safetensors_header.json").read_text())
    del header["__metadata__"]
    from transformers import BertModel

    from scgeneformer.models._config import bert_config, read_config

    with torch.device("meta"):
        tensors = {name: torch.empty(entry["shape"]) for name, entry in header.items()}
        path = stem.with_name(stem.name + ".config.json")
        expected = BertModel(bert_config(read_config(path), path), add_pooling_layer=False).state_dict()
    found = _weights._encoder_tensors(tensors)
    _weights._check(found, expected, "the file")
    assert set(tensors) - {f"bert.{name}" for name in found} == {
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "classifier.bias",
        "classifier.weight",
    }


def damage(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncate(path, n_bytes):
    path.write_bytes(path.read_bytes()[:n_bytes])


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), r"is not a model directory: it has no config\.json"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no weights: neither model.safetensors nor"),
    "config is no JSON": (lambda f: (f / "config.json").write_text("{"), "not readable JSON"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "not the config of a BERT"),
    "config of a GPT": (lambda f: damage(f, "config.json", model_type="gpt2"), "not the config of a BERT .*'gpt2'"),
    "config lacks a size": (lambda f: damage(f, "config.json", hidden_size=None), "no usable hidden_size"),
    "config has a word": (
        lambda f: damage(f, "config.json", intermediate_size="x"),
        "no usable intermediate_size: 'x'",
    ),
    "heads do not divide": (lambda f: damage(f, "config.json", num_attention_heads=3), "16 does not divide into 3"),
    "relative positions": (
        lambda f: damage(f, "config.json", position_embedding_type="relative_key"),
        "only 'absolute'",
    ),
    "too few blocks in weights": (
        lambda f: damage(f, "config.json", num_hidden_layers=3),
        r"lacks the tensor encoder\.layer\.2\.\S+ \(16 of the encoder's 53",
    ),
    "too many blocks in weights": (
        lambda f: damage(f, "config.json", num_hidden_layers=1),
        r"holds the tensor encoder\.layer\.1\.\S+, for which",
    ),
    "wrong shape": (
        lambda f: damage(f, "config.json", intermediate_size=48),
        r"tensor encoder\.layer\.0\.intermediate\.dense\.weight of .* is \(32, 16\) .* \(48, 16\)",
    ),
    "header cut": (lambda f: truncate(f / "model.safetensors", 100), "not a whole safetensors file.* 100 bytes"),
    "data cut": (lambda f: truncate(f / "model.safetensors", 9000), "not a whole safetensors file.* 9,000 bytes"),
    "empty weights": (lambda f: truncate(f / "model.safetensors", 0), "not a whole safetensors file.* 0 bytes"),
    "no medians": (lambda f: next(f.glob("gene_median*")).unlink(), "lacks gene_median_dictionary"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_every_damage_is_one_clear_error(checkpoint, kind):
    harm, message = DAMAGES[kind]
    harm(checkpoint)
    with pytest.raises(ModelError, match=message):
        models.load(checkpoint, device="cpu")
    assert models.cache_info().empty


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_hostile_dictionary_executes_nothing(checkpoint, tmp_path):
    trace = tmp_path / "executed"
    (checkpoint / "token_dictionary_gc104M.pkl").write_bytes(pickle.dumps({"ENSG1": Bomb(trace)}))
    with pytest.raises(ModelError, match=r"was refused.*Nothing in it was executed"):
        models.load(checkpoint, device="cpu")
    assert not trace.exists()


def test_a_hostile_weight_pickle_executes_nothing(checkpoint, tmp_path):
    trace = tmp_path / "executed"
    (checkpoint / "model.safetensors").unlink()
    torch.save({"bert.embeddings.word_embeddings.weight": Bomb(trace)}, checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"was refused.*Nothing in it was executed"):
        models.load(checkpoint, device="cpu")
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ModelError, match=r"was refused.*Nothing in it was executed"):
        models.load(checkpoint, device="cpu")
    assert not trace.exists()


def test_a_bin_file_of_something_else_is_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    torch.save([1, 2], checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match="no dictionary of tensors"):
        models.load(checkpoint, device="cpu")


@pytest.mark.parametrize("dtype", ["bfloat16", torch.bfloat16, "float16", "float32", "torch.float16"])
def test_every_dtype_gives_nearly_the_same_states(checkpoint, dtype):
    model = models.load(checkpoint, device="cpu", dtype=dtype)
    assert str(model.dtype).removeprefix("torch.") == str(dtype).removeprefix("torch.")
    assert {p.dtype for p in model.bert.parameters()} == {model.dtype}
    reference = states(models.load(checkpoint, device="cpu"), TOKENS, 2)
    np.testing.assert_allclose(states(model, TOKENS, 2), reference, atol=0.1)


def test_unknown_dtypes_and_devices_are_refused(checkpoint):
    with pytest.raises(ModelError, match="dtype='int8' is not supported; it is 'auto', 'float32'"):
        models.load(checkpoint, device="cpu", dtype="int8")
    with pytest.raises(ModelError, match="device='gpu' is not understood"):
        models.load(checkpoint, device="gpu")
    with pytest.raises(ModelError, match="device='meta' is not supported"):
        models.load(checkpoint, device="meta")
    with pytest.raises(ModelError, match="device='cuda:99'"):
        models.load(checkpoint, device="cuda:99")


def test_defaults_come_from_the_settings(checkpoint):
    with settings.override(model=str(checkpoint), device="cpu", dtype="bfloat16"):
        model = models.load()
    assert (model.name, model.device.type, model.dtype) == ("tiny", "cpu", torch.bfloat16)
    with settings.override(dtype="bfloat16", device="cpu"):
        assert models.load(checkpoint, dtype="float32").dtype == torch.float32


def test_the_vocabulary_loads_without_the_weights(checkpoint):
    found = models.load_vocabulary(checkpoint)
    assert found.n_tokens == 34
    assert not _weights.READS
    model = models.load(checkpoint, device="cpu")
    assert model.vocabulary is found
    assert models.load_vocabulary(model) is found
    with settings.override(model=str(checkpoint)):
        assert models.load_vocabulary() is found
    (checkpoint / "model.safetensors").unlink()
    assert models.load_vocabulary(str(checkpoint)) is found


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_auto_is_half_precision_on_cuda(checkpoint, monkeypatch):  # pragma: no cover
    monkeypatch.setattr(settings, "dtype", "auto")
    model = models.load(checkpoint)
    assert (model.device, model.dtype.itemsize) == (torch.device("cuda", torch.cuda.current_device()), 2)
    assert {p.device for p in model.bert.parameters()} == {model.device}
    twin = models.load(model, device="cpu", dtype="float32")
    assert models.load(twin, device="cuda", dtype=model.dtype) is model
