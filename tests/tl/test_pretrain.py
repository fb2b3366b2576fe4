"""Pretraining as a user sees it: from scratch, on from a model, with other genes; stopped, and taken up again."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
from anndata.tests.helpers import assert_equal
from toys import Stop, make_adata, make_vocabulary

import scgeneformer as gf
from scgeneformer._engine.two_time_points import reads_two_times
from scgeneformer._errors import DataError, MissingKeyError, ModelError
from scgeneformer.models._head import load_head

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
NO_SAVES = {"save_strategy": "no"}
QUICK = {"epochs": 2, "batch_size": 8, "learning_rate": 1e-3}


@pytest.fixture
def cells():
    """24 cells of four donors."""
    adata = make_adata(24)
    adata.obs["donor"] = [f"d{i // 6}" for i in range(24)]
    return adata


@pytest.fixture
def vocabulary():
    return make_vocabulary(special=True)


def scratch(adata, vocabulary, out, **more):
    return gf.tl.pretrain(adata, vocabulary=vocabulary, out=out, **{"config": SMALL, **QUICK, **more})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model from scratch that others begin with."""
    with gf.settings.override(progress=False):
        return scratch(make_adata(24), make_vocabulary(special=True), tmp_path_factory.mktemp("m") / "base", epochs=4)


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def same_weights(one, other):
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def curve(trained, *names):
    names = names or ("loss", "eval_loss", "eval_accuracy", "step")
    return [{name: entry[name] for name in names if name in entry} for entry in trained.metrics["history"]]


# --- from scratch ---------------------------------------------------------------------------------------------------


def make_modules(n_cells: int = 66) -> ad.AnnData:
    """Cells that express one of three sets of genes: which gene is masked can be told from the others."""
    adata = make_adata(n_cells, 39)
    on = np.arange(39) // 13 == (np.arange(n_cells) % 3)[:, None]
    adata.X = np.where(on, np.random.default_rng(0).integers(1, 9, on.shape), 0).astype(np.float32)
    return adata


def test_it_learns_more_than_the_frequency_of_genes(vocabulary, tmp_path):
    more = {"epochs": 30, "batch_size": 20, "learning_rate": 1e-2, "arguments": {"eval_strategy": "no", **NO_SAVES}}
    found = scratch(make_modules(), vocabulary, tmp_path / "out", **more).metrics["metrics"]
    assert found["validation"]["loss"] < found["validation"]["unigram_loss"] - 0.5
    assert found["validation"]["unigram_loss"] == pytest.approx(math.log(39), abs=0.1)
    assert found["validation"]["perplexity"] == pytest.approx(math.exp(found["validation"]["loss"]))


def test_directory_is_a_stock_model_and_one_of_ours(cells, vocabulary, tmp_path):
    from transformers import BertForMaskedLM

    trained = scratch(cells, vocabulary, tmp_path / "out")
    stock, report = BertForMaskedLM.from_pretrained(trained.folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    loaded = gf.models.load(trained, dtype="float32", device="cpu")
    assert (loaded.n_blocks, loaded.width) == (2, 32)
    assert loaded.vocabulary.checksum == replace(vocabulary, record={}).checksum
    head = load_head(loaded).on(loaded.bert)
    np.testing.assert_array_equal(head.bias, stock.cls.predictions.bias.detach())
    np.testing.assert_array_equal(head.dense.weight, stock.cls.predictions.transform.dense.weight.detach())
    gf.tl.embed_cells(cells, trained)
    assert np.isfinite(cells.obsm["X_geneformer"]).all()
    gf.tl.score_masked_genes(cells, trained, n_passes=1)
    assert np.isfinite(cells.obs["geneformer_log_likelihood"]).all()


def test_everything_that_decides_the_weights_is_in_the_directory(cells, vocabulary, tmp_path):
    trained = scratch(cells, vocabulary, tmp_path / "out", seed=7, fractions=(0.5, 0.25, 0.25), base_width=16)
    found = json.loads((trained.folder / "metrics.json").read_text())
    assert found["tokens_seen"] == 2 * sum(gf_lengths(cells, vocabulary)[cells.obs["geneformer_split"] == "train"])
    assert set(found["metrics"]) == {"validation", "test"}
    (data,) = found["data"]
    assert data["cells"] == 24
    assert data["tokens"] == gf_lengths(cells, vocabulary).sum()
    assert len(data["checksum"]) == 64
    assert found["hours"] >= 0
    card = (trained.folder / "README.md").read_text()
    for text in (
        data["checksum"],
        "- seed: 7",
        "- base_width: 16",
        "- learning_rate: 0.001",
        "unigram loss",
        "## Loss curve",
    ):
        assert text in card
    assert "- pooling" not in card
    assert [line.split(":")[0] for line in repr(trained).splitlines()[1:]] == ["    validation", "    test"]
    record = gf.models.load_vocabulary(trained).record["pretraining"]
    assert (record["seed"], record["recipe"]["config"]) == (7, SMALL)
    assert "base_model" not in record


def gf_lengths(adata, vocabulary) -> np.ndarray:
    n = (adata.X.toarray() > 0).sum(axis=1)
    return np.minimum(n, vocabulary.max_genes) + 2


def test_default_architecture_is_that_of_the_paper_in_any_width(cells, vocabulary, tmp_path):
    trained = scratch(
        cells, vocabulary, tmp_path / "out", config={"hidden_size": 128, "num_hidden_layers": 1}, epochs=1
    )
    config = json.loads((trained.folder / "config.json").read_text())
    assert (config["num_attention_heads"], config["intermediate_size"], config["hidden_act"]) == (2, 256, "relu")
    assert (config["hidden_dropout_prob"], config["max_position_embeddings"], config["pad_token_id"]) == (0.02, 16, 0)
    assert config["architectures"] == ["BertForMaskedLM"]


def test_a_model_of_two_time_points_keeps_its_encoding(cells, vocabulary, tmp_path):
    cells.layers["before"] = cells.X[::-1].copy()
    two = reads_two_times(vocabulary)
    trained = scratch(cells, two, tmp_path / "out", previous_layer="before", epochs=1)
    assert gf.models.load_vocabulary(trained).encoding == two.encoding


# --- the same again, and stopped ------------------------------------------------------------------------------------


def test_twice_the_same_loss_curve_and_another_seed_another(cells, vocabulary, tmp_path):
    one, two, other = (scratch(cells, vocabulary, tmp_path / str(i), seed=seed) for i, seed in enumerate((1, 1, 2)))
    assert curve(one) == curve(two) != curve(other)
    assert same_weights(one.folder, two.folder)


def test_the_order_of_the_rows_makes_no_difference(cells, vocabulary, tmp_path):
    one = scratch(cells, vocabulary, tmp_path / "one")
    turned = cells[np.random.default_rng(1).permutation(24)].copy()
    assert same_weights(one.folder, scratch(turned, vocabulary, tmp_path / "two").folder)
    assert (turned.obs["geneformer_split"] == cells.obs["geneformer_split"][turned.obs_names]).all()


@pytest.mark.parametrize("step", [2, 5], ids=["in the first epoch", "in the second"])
def test_a_stopped_training_goes_on_to_the_same_bits(cells, vocabulary, tmp_path, stop_after, step):
    """Masks and dropout included: three steps an epoch."""
    more = {"epochs": 3, "config": {**SMALL, "hidden_dropout_prob": 0.2}, "arguments": {"save_steps": 1}}
    whole = scratch(cells, vocabulary, tmp_path / "one", **more)
    stop_after(step)
    with pytest.raises(Stop):
        scratch(cells, vocabulary, tmp_path / "two", **more)
    again = scratch(cells, vocabulary, tmp_path / "two", **more)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    assert curve(whole, "eval_loss") == curve(again, "eval_loss")


def test_accumulated_batches_are_one_big_batch(cells, vocabulary, tmp_path):
    more = {"arguments": {"optim": "sgd"}, "epochs": 1, "dropout": 0.0, "learning_rate": 0.5, "schedule": "constant"}
    big = scratch(cells, vocabulary, tmp_path / "a", batch_size=24, **more)
    small = scratch(cells, vocabulary, tmp_path / "b", batch_size=6, accumulation=4, **more)
    start = scratch(cells, vocabulary, tmp_path / "c", **{**more, "learning_rate": 1e-12})
    big, small, start = (weights(one.folder) for one in (big, small, start))
    assert max(np.abs(big[name] - start[name]).max() for name in big) > 1e-2
    for name in big:
        np.testing.assert_allclose(small[name], big[name], atol=1e-6, err_msg=name)


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # transformers 5.23
def test_gradient_checkpointing_changes_nothing(cells, vocabulary, tmp_path):
    one = scratch(cells, vocabulary, tmp_path / "one", dropout=0.0)
    two = scratch(cells, vocabulary, tmp_path / "two", dropout=0.0, arguments={"gradient_checkpointing": True})
    for name, tensor in weights(one.folder).items():
        np.testing.assert_allclose(weights(two.folder)[name], tensor, atol=1e-6, err_msg=name)


# --- several data sets, and parts -----------------------------------------------------------------------------------


def test_several_data_sets_are_divided_as_one(cells, vocabulary, tmp_path):
    other = make_adata(12, seed=5)
    other.obs["donor"] = np.repeat(["d0", "e"], 6)
    trained = scratch([cells, other], vocabulary, tmp_path / "out", split_by="donor", fractions=(0.7, 0.3, 0.0))
    assert [data["cells"] for data in trained.metrics["data"]] == [24, 12]
    parts = ad.concat([cells, other], index_unique="-").obs.groupby("donor", observed=True)["geneformer_split"]
    assert parts.nunique().tolist() == [1] * 5  # also of the donor that is in both
    again = scratch([cells, other], vocabulary, tmp_path / "two", split_by="donor", fractions=(0.7, 0.3, 0.0))
    assert same_weights(trained.folder, again.folder)


def test_folders_of_tokens_give_the_weights_that_the_counts_give(trained, cells, tmp_path):
    pytest.importorskip("pyarrow")
    gf.datasets.write_tokens(cells, tmp_path / "cells.dataset", model=trained)
    one = gf.tl.pretrain(cells, trained, out=tmp_path / "one", split_by="donor", fractions=(0.7, 0.3, 0), **QUICK)
    again = {"split_by": "donor", "fractions": (0.7, 0.3, 0), **QUICK}
    two = gf.tl.pretrain(tmp_path / "cells.dataset", trained, out=tmp_path / "two", **again)
    assert same_weights(one.folder, two.folder)
    assert one.metrics["data"][0]["checksum"] == two.metrics["data"][0]["checksum"]
    assert two.metrics["data"][0]["counts"] == str(tmp_path / "cells.dataset")
    mixed = gf.tl.pretrain([tmp_path / "cells.dataset", make_adata(6)], trained, out=tmp_path / "three", **QUICK)
    assert [data["cells"] for data in mixed.metrics["data"]] == [24, 6]


def test_a_given_split_is_used_and_may_hold_nothing_out(cells, vocabulary, tmp_path):
    cells.obs["part"] = np.where(cells.obs["donor"] == "d3", None, "train")
    before = cells.copy()
    trained = scratch(cells, vocabulary, tmp_path / "out", split="part")
    assert trained.metrics["metrics"] == {}
    assert trained.metrics["data"][0]["cells"] == 18
    assert_equal(cells, before)
    assert "Nothing was held out." in (trained.folder / "README.md").read_text()


def test_empty_cells_are_left_out(cells, vocabulary, tmp_path, log):
    dense = cells.X.toarray()
    dense[:3] = 0
    cells.X = dense
    trained = scratch(cells, vocabulary, tmp_path / "out")
    assert trained.metrics["data"][0]["cells"] == 21
    assert "3 of 24 cells to train and validate on have no count of a gene that the model knows" in log()


# --- on from a model ------------------------------------------------------------------------------------------------


def test_it_goes_on_from_the_weights_of_a_model(trained, cells, tmp_path, log):
    """It begins with the weights of the model, its head included."""
    frozen = gf.tl.pretrain(cells, trained, out=tmp_path / "out", **{**QUICK, "learning_rate": 1e-12, "max_tokens": 12})
    assert "cells are cut to 10 genes, as positions of the model or max_tokens= allow" in log()
    assert gf.models.load_vocabulary(frozen).input_size == 12
    for name, tensor in weights(trained.folder).items():
        np.testing.assert_allclose(weights(frozen.folder)[name], tensor, atol=1e-7, err_msg=name)
    record = gf.models.load_vocabulary(frozen).record["pretraining"]
    assert record["base_checksum"] == gf.models.load(trained).checksum
    assert record["recipe"]["init"] == "pretrained"


def test_genes_that_are_new_begin_with_the_mean_of_all(trained, cells, vocabulary, tmp_path, log):
    wider = replace(
        vocabulary,
        tokens=vocabulary.tokens + 1,
        ensembl_ids=np.append(vocabulary.ensembl_ids[1:], "ENSG00000099999"),
        symbols=np.append(vocabulary.symbols[1:], "NEW"),
        medians=np.append(vocabulary.medians[1:], 1.0),
        special={**vocabulary.special, "<sep>": 4},
    )
    found = gf.tl.pretrain(cells, trained, vocabulary=wider, out=tmp_path / "o", **{**QUICK, "learning_rate": 1e-12})
    old, new = (weights(one.folder)["bert.embeddings.word_embeddings.weight"] for one in (trained, found))
    np.testing.assert_allclose(new[5:44], old[5:], atol=1e-7)  # genes 1 to 39, whose tokens are the same here
    np.testing.assert_allclose(new[44], old[4:].mean(axis=0), atol=1e-7)
    assert "39 genes of base keep their rows, 1 with the mean of all genes; 1 genes of base are not in the" in log()
    assert gf.models.load_vocabulary(found).ensembl_ids[-1] == "ENSG00000099999"


def test_genes_of_another_species_begin_with_those_of_their_orthologs(trained, tmp_path, log):
    mouse = make_vocabulary(30, special=True)
    ids = np.array([f"ENSMUSG{i:011d}" for i in range(30)])
    mouse = replace(mouse, ensembl_ids=ids, aliases={})
    cells = make_adata(24, 30)
    cells.var["ensembl_id"] = ids
    orthologs = {ids[i]: f"ENSG{i + 5:011d}" for i in range(20)}
    settings = {**QUICK, "learning_rate": 1e-12}
    found = gf.tl.pretrain(cells, trained, vocabulary=mouse, orthologs=orthologs, out=tmp_path / "out", **settings)
    old, new = (weights(one.folder) for one in (trained, found))
    for name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        np.testing.assert_allclose(new[name][4:24], old[name][9:29], atol=1e-7)
        np.testing.assert_allclose(new[name][24:], np.stack([old[name][4:].mean(axis=0)] * 10), atol=1e-7)
    assert "20 genes begin with those of orthologs, 10 with the mean of all genes" in log()


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"vocabulary": None}, r"Name what to begin with: vocabulary= to train from scratch, model= to go on"),
        ({"orthologs": {"a": "b"}}, r"orthologs lead from the genes of a new vocabulary to those of a pretrained"),
        ({"init": "pretrained"}, r"init='pretrained' begins with the weights of a model\. Name it: model="),
        ({"pooling": "cls"}, r"pooling='cls' is no setting of gf\.tl\.pretrain, but of classifiers\. Leave it out"),
        ({"lora": 4, "init": "random"}, r"lora trains adapters of pretrained weights"),
        ({"config": {"hidden_sise": 3}}, r"'hidden_sise': \.\.\.\} is no entry that can be set"),
        ({"config": {"hidden_size": 33, "num_attention_heads": 2}}, r"no BERT model can be built of it"),
        ({"base_width": 0}, r"base_width=0 must be a whole number from 1"),
        ({"patience": 1, "fractions": (1, 0, 0)}, r"patience stops by the validation loss, and there are no"),
        ({"arguments": 3}, "arguments=3 must be a dictionary"),
        ({"arguments": {"bogus": 1}}, r"'bogus' is no argument of transformers\.TrainingArguments"),
        ({"fractions": (0.5, 0.4, 0.3)}, r"must add up to 1"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_and_nothing_is_written(unchanged, vocabulary, tmp_path, more, error):
    with pytest.raises(DataError, match=error):
        scratch(unchanged, **{"vocabulary": vocabulary, "out": tmp_path / "out", **more})
    assert not (tmp_path / "out").exists()


def test_parameters_that_contradict_the_model_are_refused(unchanged, trained, vocabulary, tmp_path):
    with pytest.raises(DataError, match=r"config changes the shape of the model, which needs random weights"):
        gf.tl.pretrain(unchanged, trained, config=SMALL, out=tmp_path / "out")
    other = replace(vocabulary, ensembl_ids=np.array([f"ENSMUSG{i:011d}" for i in range(40)]), aliases={})
    with pytest.raises(ModelError, match=r"share no gene\. Name orthologs, orthologs="):
        gf.tl.pretrain(unchanged, trained, vocabulary=other, out=tmp_path / "out")
    with pytest.raises(DataError, match=r"but no pair of both"):
        gf.tl.pretrain(unchanged, trained, vocabulary=other, orthologs={"X": "Y"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_without_head_is_refused(unchanged, toy, tmp_path):
    with pytest.raises(ModelError, match=r"toy was built in memory, without a head\. Take a model that was pretrained"):
        gf.tl.pretrain(unchanged, toy, out=tmp_path / "out")


def test_a_decoder_that_is_not_tied_is_refused(unchanged, trained, tmp_path):
    folder = shutil.copytree(trained.folder, tmp_path / "untied")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"The decoder of untied is not tied to its embeddings .*tied ones only"):
        gf.tl.pretrain(unchanged, folder, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_data_sets_are_named_in_errors(unchanged, vocabulary, tmp_path):
    empty = make_adata(12)
    empty.X = empty.X * -1
    with pytest.raises(DataError, match=r"Data set 1: "):
        scratch([unchanged, empty], vocabulary, tmp_path / "out")
    with pytest.raises(MissingKeyError, match=r"'batch' is no column of adata\.obs of data set 0; the columns are: "):
        scratch([unchanged, unchanged.copy()], vocabulary, tmp_path / "out", split_by="batch")
    with pytest.raises(
        DataError, match=r"adata must be an AnnData, the path of a folder of tokens, or a list of these, not \[\]"
    ):
        scratch([], vocabulary, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_settings_of_pretraining_are_refused_by_classifiers(unchanged, toy, tmp_path):
    with pytest.raises(DataError, match=r"base_width=16 is no setting of classifiers, but of gf\.tl\.pretrain"):
        gf.tl.train_classifier(unchanged, "cell_type", toy, base_width=16, out=tmp_path / "out")


def test_a_stopped_training_is_not_mixed_with_another(cells, vocabulary, tmp_path, stop_after):
    stop_after(2)
    with pytest.raises(Stop):
        scratch(cells, vocabulary, tmp_path / "out")
    dense = cells.X.toarray()
    dense[0] = dense[1]
    cells.X = dense
    with pytest.raises(DataError, match="holds a training that was cut off and differs in data"):
        scratch(cells, vocabulary, tmp_path / "out")
