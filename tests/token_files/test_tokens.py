"""gf.datasets.read_tokens and write_tokens: to the reference and back, and what works on what was read."""

from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata.tests.helpers import assert_equal
from toys import clear_cells, make_adata, make_model

import scgeneformer as gf
from scgeneformer._adata.disk.token_files import TokenFile
from scgeneformer._engine.tokens import Tokens
from scgeneformer._errors import DataError, MissingKeyError, OutOfMemoryError

pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _no_bars():
    datasets.disable_progress_bars()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cells.dataset"


@pytest.fixture
def read(adata, model, path):
    """The cells of `adata` by way of a folder."""
    gf.datasets.write_tokens(adata, path, model)
    return gf.datasets.read_tokens(path, model)


def test_tokens_go_through_a_folder_unchanged(adata, model, read):
    gf.tl.tokenize(adata, model)
    np.testing.assert_array_equal(read.obsm["geneformer_tokens"], adata.obsm["geneformer_tokens"])
    assert read.obsm["geneformer_tokens"].dtype == np.uint16
    np.testing.assert_array_equal(read.obs["geneformer_n_tokens"], adata.obs["geneformer_n_tokens"])
    assert read.obs["geneformer_n_genes"].max() <= model.vocabulary.max_genes
    pd.testing.assert_frame_equal(
        read.obs[["cell_type", "donor"]], adata.obs.astype("category")[["cell_type", "donor"]]
    )
    assert read.shape == (12, 40)
    assert read.X is None
    assert read.var_names.tolist() == model.vocabulary.ensembl_ids.tolist()
    assert read.uns["geneformer_tokens"]["params"]["counts"] == "token file"


def test_embeddings_are_those_of_the_counts(adata, model, read, log):
    for one in (adata, read):
        gf.tl.embed_cells(one, model, groupby="cell_type", counts_layer=None)
    np.testing.assert_allclose(read.obsm["X_geneformer"], adata.obsm["X_geneformer"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(read.uns["X_geneformer_cell_type"], adata.uns["X_geneformer_cell_type"], atol=1e-6)
    assert "using the tokens that were read from" in log()


def test_models_of_value_bins_are_refused(adata, model, read, path):
    other = path.with_name("other.dataset")
    binned = replace(model, vocabulary=replace(model.vocabulary, encoding=gf.models.ValueBinned(9)))
    told = "reads bins of values, and folders of tokens hold the order of the genes alone. Give it counts, or name"
    for function, *arguments in (
        (gf.datasets.write_tokens, adata, other, binned),
        (gf.datasets.read_tokens, path, binned),
        (gf.tl.embed_cells, read, binned),
    ):
        with pytest.raises(DataError, match=told):
            function(*arguments)
    assert not other.exists()


def test_what_runs_a_model_runs_on_tokens(adata, model, read):
    for one in (adata, read):
        gf.tl.embed_genes(one, model)
        gf.tl.perturb(one, model=model, genes=["ENSG00000000005"], counts_layer="no matter" if one is read else None)
        gf.tl.attention(one, model)
    np.testing.assert_allclose(read.varm["geneformer"], adata.varm["geneformer"], rtol=0, atol=1e-5)
    key = "geneformer_delete"
    np.testing.assert_allclose(read.layers[key].toarray(), adata.layers[key].toarray(), rtol=0, atol=1e-5)
    key = "geneformer_attention"
    np.testing.assert_allclose(read.varp[key].toarray(), adata.varp[key].toarray(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("suffix", ["h5ad", "zarr"])
def test_cells_and_some_genes_of_a_stored_result_embed_alike(model, read, tmp_path, suffix):
    getattr(read, f"write_{suffix}")(tmp_path / f"cells.{suffix}")
    stored = getattr(ad, f"read_{suffix}")(tmp_path / f"cells.{suffix}")
    assert_equal(stored, read)
    some = stored[[5, 2], :10].copy()
    for one in (read, some):
        gf.tl.embed_cells(one, model)
    np.testing.assert_allclose(some.obsm["X_geneformer"], read.obsm["X_geneformer"][[5, 2]], rtol=0, atol=1e-6)


def test_folders_can_be_joined(adata, model, tmp_path):
    parts = []
    for name, rows in (("a", slice(0, 5)), ("b", slice(5, 12))):
        gf.datasets.write_tokens(adata[rows], tmp_path / name, model)
        parts.append(gf.datasets.read_tokens(tmp_path / name, model))
    joined = ad.concat(parts, uns_merge="same")
    for one in (joined, adata):
        gf.tl.embed_cells(one, model)
    np.testing.assert_allclose(joined.obsm["X_geneformer"], adata.obsm["X_geneformer"], rtol=0, atol=1e-6)


def test_tokens_can_be_written_again(read, model, tmp_path):
    gf.datasets.write_tokens(read, tmp_path / "again", model)
    again = gf.datasets.read_tokens(tmp_path / "again", model)
    del again.uns["geneformer_tokens"]["file"], read.uns["geneformer_tokens"]["file"]
    assert_equal(again, read)


def test_empty_cells_are_left_out_with_a_warning(adata, model, path, log):
    clear_cells(adata, 0, 7)
    gf.datasets.write_tokens(adata, path, model)
    assert "2 of 12 cells have no gene that the model knows: left out" in log()
    names = [f"cell{i}" for i in range(12) if i not in (0, 7)]
    assert gf.datasets.read_tokens(path, model).obs_names.tolist() == names
    assert datasets.load_from_disk(path)["obs_names"][:] == names


def test_empty_cells_of_a_foreign_folder_have_no_embedding(toy, path, log):
    datasets.Dataset.from_dict({"input_ids": [[5, 6], [], [7]]}).save_to_disk(path)
    found = gf.datasets.read_tokens(path, toy)
    assert "1 of 3 cells have no count of a gene that the model knows" in log()
    gf.tl.embed_cells(found, toy)
    assert np.isnan(found.obsm["X_geneformer"]).all(axis=1).tolist() == [False, True, False]
    assert found.obs_names.tolist() == ["0", "1", "2"]


def test_columns_are_chosen(adata, toy, path, unchanged):
    gf.datasets.write_tokens(adata, path, toy, obs_columns=["donor"])
    assert datasets.load_from_disk(path).column_names == ["input_ids", "length", "obs_names", "donor"]
    gf.datasets.write_tokens(adata, path, toy, obs_columns=[], overwrite=True)
    assert datasets.load_from_disk(path).column_names == ["input_ids", "length", "obs_names"]


def test_columns_that_cannot_be_written_are_told(adata, toy, path, log):
    adata.obs["length"], adata.obs["mixed"] = 1, pd.Series(["a", 2] * 6, index=adata.obs_names, dtype=object)
    gf.datasets.write_tokens(adata, path, toy)
    assert "left out columns of adata.obs that cannot be written: length, mixed" in log()
    with pytest.raises(DataError, match=r"adata.obs\['mixed'\] cannot be written: the names .*astype\(str\)"):
        gf.datasets.write_tokens(adata, path, toy, obs_columns=["mixed"], overwrite=True)
    with pytest.raises(MissingKeyError, match=r"adata.obs\['organ'\] does not exist; the columns are: 'cell_type'"):
        gf.datasets.write_tokens(adata, path, toy, obs_columns=["organ"], overwrite=True)
    with pytest.raises(DataError, match=r"obs_columns='donor' must be a list of names, such as obs_columns="):
        gf.datasets.write_tokens(adata, path, toy, obs_columns="donor", overwrite=True)


def test_nothing_is_replaced_unasked(adata, toy, path, tmp_path):
    gf.datasets.write_tokens(adata[:3], path, toy)
    with pytest.raises(DataError, match=r"cells.dataset exists already. Name another folder, .*overwrite=True"):
        gf.datasets.write_tokens(adata, path, toy)
    gf.datasets.write_tokens(adata, path, toy, overwrite=True)
    assert len(datasets.load_from_disk(path)) == 12
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(DataError, match=r"mine exists and is no folder of tokens; it is not replaced. Name another"):
        gf.datasets.write_tokens(adata, tmp_path / "mine", toy, overwrite=True)
    with pytest.raises(FileNotFoundError, match=r"There is no directory .*nowhere to write a.dataset into"):
        gf.datasets.write_tokens(adata, tmp_path / "nowhere" / "a.dataset", toy)
    adata.write_zarr(tmp_path / "cells.zarr")
    with pytest.raises(
        OSError, match=r"a.dataset would be a part of .*cells.zarr, which holds other data\. Name a place"
    ):
        gf.datasets.write_tokens(adata, tmp_path / "cells.zarr" / "a.dataset", toy)
    (tmp_path / "empty").mkdir()
    gf.datasets.write_tokens(adata, tmp_path / "empty", toy)


def test_rows_are_chosen(read, model, path, monkeypatch):
    monkeypatch.setattr("scgeneformer.datasets._read_tokens.ROWS_AT_ONCE", 2)
    mask = (np.arange(12) % 3) == 0
    for rows in (slice(2, 9, 3), [-1, 0, 3, 4, 5], mask, np.array([], dtype=int), []):
        some = gf.datasets.read_tokens(path, model, rows=rows)
        assert some.obs_names.tolist() == read.obs_names[np.asarray(rows, int) if len_is_zero(rows) else rows].tolist()
        expected = read[some.obs_names.tolist()].obsm["geneformer_tokens"]
        np.testing.assert_array_equal(some.obsm["geneformer_tokens"], expected)
    for rows, error in (([12], "names the row 12"), (mask[:5], "is a mask of 5 rows, and"), (["a"], "must be a slice")):
        with pytest.raises(DataError, match=f"rows= {error}"):
            gf.datasets.read_tokens(path, model, rows=rows)


def len_is_zero(rows):
    return not isinstance(rows, slice) and len(rows) == 0


def test_cells_are_named_by_any_column(toy, path, log):
    columns = {"input_ids": [[5], [6], [7]], "barcode": ["x", "y", "z"], "organ": ["heart", "lung", "heart"]}
    datasets.Dataset.from_dict(columns).save_to_disk(path)
    found = gf.datasets.read_tokens(path, toy, obs_names="barcode")
    assert found.obs_names.tolist() == ["x", "y", "z"]
    assert "barcode" not in found.obs
    found = gf.datasets.read_tokens(path, toy, obs_names="organ")
    assert found.obs_names.tolist() == ["heart", "lung", "heart-1"]
    assert "the names of the cells in the column 'organ' are not unique" in log()
    with pytest.raises(MissingKeyError, match="no column 'name' with one value per cell; there are: 'barcode', 'o"):
        gf.datasets.read_tokens(path, toy, obs_names="name")


def test_what_needs_counts_says_so(read, model):
    with pytest.raises(DataError, match="needs counts, and adata holds none: its tokens came from a file"):
        gf.tl.perturb(read, model=model, genes=["ENSG00000000005"], refill=True)
    with pytest.raises(MissingKeyError, match=r"adata.X is None \(its tokens came from a file, without counts\)"):
        gf.tl.tokenize(read, model)
    assert "tokens that were read from a file stand in for the counts" in str(gf.pp.check(read, model))


def test_two_columns_of_one_name_are_refused(adata, toy, path):
    import pyarrow as pa
    import pyarrow.ipc

    gf.datasets.write_tokens(adata, path, toy)
    (file,) = path.glob("*.arrow")
    table = pa.ipc.open_stream(file.read_bytes()).read_all()
    table = table.rename_columns(["donor" if name == "cell_type" else name for name in table.column_names])
    with pa.ipc.new_stream(str(file), table.schema) as stream:
        stream.write_table(table)
    with pytest.raises(DataError, match=r"cells.dataset has several columns 'donor'\. Rename or remove all but one"):
        gf.datasets.read_tokens(path, toy)


def test_another_model_is_refused(adata, toy, path):
    gf.datasets.write_tokens(adata, path, toy)
    read = gf.datasets.read_tokens(path, toy)
    before = read.copy()
    for other in (make_model(n_genes=39), make_model(input_size=32)):
        with pytest.raises(DataError, match=r"were read from .*cells.dataset for a model with other .*read_tokens"):
            gf.tl.embed_cells(read, other)
    assert_equal(read, before)


def test_a_model_of_the_same_genes_cuts_the_cells_itself(adata, toy, path):
    """As models that were fine-tuned on fewer tokens, or with a `<cls>` of their own."""
    gf.datasets.write_tokens(adata, path, toy)
    read, short = gf.datasets.read_tokens(path, toy), make_model(input_size=8)
    for one in (adata, read):
        gf.tl.embed_cells(one, short)
    np.testing.assert_allclose(read.obsm["X_geneformer"], adata.obsm["X_geneformer"], rtol=0, atol=1e-6)
    assert read.obs["geneformer_n_tokens"].max() == 8


def test_memory_that_is_short_is_told(read, model, path, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("scgeneformer.datasets._read_tokens.np.zeros", full)
    with pytest.raises(OutOfMemoryError, match=r"tokens of 12 cells take 3.84e-07 GB, .* Read some of them: rows="):
        gf.datasets.read_tokens(path, model)


def test_a_classifier_learns_from_tokens(toy, tmp_path):
    adata = make_adata(60)
    adata.obs["state"] = np.where(adata.X[:, 5].toarray().ravel() > 0, "on", "off")
    gf.datasets.write_tokens(adata, tmp_path / "a.dataset", toy)
    read = gf.datasets.read_tokens(tmp_path / "a.dataset", toy)
    chosen = {"epochs": 1, "max_tokens": 8, "add_cls": True, "pooling": "cls", "device": "cpu", "frozen_layers": 0}
    for one, out in ((adata, "counts"), (read, "tokens")):
        gf.tl.train_classifier(one, "state", toy, out=tmp_path / out, **chosen)
        gf.tl.classify(one, tmp_path / out, device="cpu")
    key = "geneformer_state_probability"
    np.testing.assert_allclose(read.obsm[key], adata.obsm[key], rtol=0, atol=1e-5)


@pytest.mark.parametrize("release", ["V1", "V2"])
@pytest.mark.parametrize("name", ["pbmc3k_48cells", "lung_6cells"])
def test_real_cells_are_written_as_the_reference_writes_them(shared, release, name, path):
    folder = shared / "goldens" / "checkpoints" / f"{release.lower()}_small"
    model = gf.models.load(folder, dictionaries=shared / "dictionaries" / release, device="cpu")
    adata = ad.read_h5ad(shared / "goldens" / f"{name}.h5ad")
    with np.load(shared / "goldens" / f"{name}_{release}.npz") as stored:
        golden = Tokens(stored["tokens"], stored["token_offsets"])
        embeddings = stored["cell_second_to_last"]
    gf.datasets.write_tokens(adata, path, model)
    written = datasets.load_from_disk(path)
    assert written["input_ids"][:] == [golden[i].tolist() for i in range(len(golden))]
    assert written["length"][:] == golden.lengths.tolist()
    read = gf.datasets.read_tokens(path, model)
    gf.tl.embed_cells(read, model)
    np.testing.assert_allclose(read.obsm["X_geneformer"], embeddings, rtol=0, atol=5e-6)
    other = {"V1": "V2", "V2": "V1"}[release]
    checkpoint = folder.with_name(f"{other.lower()}_small")
    vocabulary = gf.models.load_vocabulary(checkpoint, dictionaries=shared / "dictionaries" / other)
    foreign = path.with_name("foreign")  # without what we note of the vocabulary
    datasets.Dataset.from_dict({"input_ids": written["input_ids"][:]}).save_to_disk(foreign)
    with pytest.raises(DataError, match="begin with the token 2" if release == "V2" else "expects <cls>|does not know"):
        TokenFile(foreign, vocabulary).rows(0, 6)
    with pytest.raises(DataError, match="were written for a model with other genes or medians"):
        TokenFile(path, vocabulary)
