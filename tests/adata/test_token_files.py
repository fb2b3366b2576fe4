"""Folders of tokens: what is read, as what, and what is refused. Foreign ones are written with datasets itself."""

import json

import numpy as np
import pandas as pd
import pytest
from toys import make_vocabulary

from scgeneformer._adata.disk import token_files
from scgeneformer._adata.disk.arrow_columns import to_arrow
from scgeneformer._adata.disk.token_files import TokenFile
from scgeneformer._adata.disk.token_writer import write_folder
from scgeneformer._engine.tokens import Tokens
from scgeneformer._engine.two_time_points import reads_two_times
from scgeneformer._errors import DataError, MissingExtraError, MissingKeyError

pa = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")

PLAIN = make_vocabulary()
CELLS = [[5, 6, 7], [], [9, 8], [41, 2, 3, 4]]


@pytest.fixture(autouse=True)
def _quiet():
    datasets.disable_progress_bars()


@pytest.fixture
def save(tmp_path):
    """Function that writes a folder as the reference does."""

    def write(cells, features=None, name="cells.dataset", **columns):
        features = None if features is None else datasets.Features(features)
        columns = {"input_ids": cells, "length": [len(cell or []) for cell in cells], **columns}
        datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / name)
        return tmp_path / name

    return write


def lists(tokens):
    return [tokens[i].tolist() for i in range(len(tokens))]


def test_cells_are_read_in_order_without_a_copy(save):
    file = TokenFile(save(CELLS), PLAIN)
    assert file.n_obs == 4
    assert file.lengths.tolist() == [3, 0, 2, 4]
    [(first, tokens, n_genes)] = file.blocks()
    assert (first, lists(tokens), n_genes.tolist()) == (0, CELLS, [3, 0, 2, 4])
    assert tokens.ids.dtype == n_genes.dtype == np.int32
    assert not tokens.ids.flags.owndata


def test_blocks_join_pieces_and_files(save, monkeypatch):
    rng = np.random.default_rng(0)
    cells = [rng.permutation(np.arange(2, 42))[: rng.integers(0, 16)].tolist() for _ in range(50)]
    path = save(cells)
    datasets.load_from_disk(path).save_to_disk(path.with_name("shards"), num_shards=3)
    monkeypatch.setattr(token_files, "ROWS_PER_BLOCK", 7)
    for one in (path, path.with_name("shards")):
        file = TokenFile(one, PLAIN)
        found = [(first, cell) for first, tokens, _ in file.blocks() for cell in [lists(tokens)]]
        assert [first for first, _ in found] == list(range(0, 50, 7))
        assert [cell for _, block in found for cell in block] == cells
        rows = np.array([49, 0, 1, 2, 30, 30, 16, 17])
        assert lists(file.take(rows)) == [cells[i] for i in rows]
        assert lists(file.rows(15, 18)) == cells[15:18]


@pytest.mark.parametrize("kind", ["int16", "uint16", "int64"])
def test_every_type_of_whole_number_is_read(save, kind):
    features = {"input_ids": datasets.Sequence(datasets.Value(kind)), "length": datasets.Value("int16")}
    assert lists(TokenFile(save(CELLS, features), PLAIN).rows(0, 4)) == CELLS


def test_special_tokens_alone_are_an_empty_cell(save):
    file = TokenFile(save([[2, 9, 3], [2, 3], []]), make_vocabulary(special=True))
    assert lists(file.rows(0, 3)) == [[2, 9, 3], [], []]
    assert [n.tolist() for *_, n in file.blocks()] == [[1, 0, 0]]


def test_columns_come_as_obs_stores_them(save):
    import datetime

    columns = {
        "organ": ["heart", "lung", "heart", None],
        "barcode": list("abcd"),
        "age": [1, None, 3, 4],
        "n": [1, 2, 3, 4],
        "score": [0.5, 1.5, float("nan"), 2.0],
        "healthy": [True, False, None, True],
        "used": [True, False, False, True],
        "day": [datetime.date(2020, 1, i) for i in range(1, 5)],
        "counts": [[1.0]] * 4,  # not one value per cell
        "disease": [1, 0, 1, -1],
    }
    file = TokenFile(save(CELLS, **columns), PLAIN)
    found = {name: file.column(name) for name in file.columns}
    assert list(found) == [name for name in columns if name != "counts"]
    assert list(found["organ"].categories) == ["heart", "lung"]
    assert found["organ"].codes.tolist() == [0, 1, 0, -1]
    assert found["barcode"].tolist() == list("abcd")
    np.testing.assert_array_equal(found["age"], [1, np.nan, 3, 4])
    assert found["n"].dtype == np.int64
    np.testing.assert_array_equal(found["score"], columns["score"])
    assert pd.Series(found["healthy"]).dtype == "boolean"
    assert found["used"].dtype == bool
    assert found["day"].tolist() == ["2020-01-01", "2020-01-02", "2020-01-03", "2020-01-04"]
    assert file.column("organ", np.array([1, 0])).tolist() == ["lung", "heart"]
    with pytest.raises(MissingKeyError, match="no column 'counts' with one value per cell; there are: 'organ', 'bar"):
        file.column("counts")


def test_numbers_of_classes_become_their_names(save):
    names = datasets.ClassLabel(names=["ctrl", "dcm"])
    features = {"input_ids": datasets.Sequence(datasets.Value("int32")), "length": datasets.Value("int64")}
    file = TokenFile(save(CELLS, {**features, "disease": names}, disease=[1, 0, None, 1]), PLAIN)
    assert file.column("disease").tolist() == ["dcm", "ctrl", np.nan, "dcm"]
    assert list(file.column("disease").categories) == ["ctrl", "dcm"]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series(["a", "b", "a"], dtype="category"),
        pd.Series(["a", None, "a"], dtype="category"),
        pd.Series(["a", None, "b"]),
        pd.Series([1, 2, 3], dtype=np.int16),
        pd.Series([1.5, np.nan, 3], dtype=np.float32),
        pd.Series([True, False, True]),
        pd.Series([1, 2, 1], dtype="category"),
        pd.Series(["x", "y", None], dtype="string"),
    ],
)
def test_columns_of_obs_become_arrow(column):
    array = to_arrow(column)
    assert array.to_pylist() == [None if pd.isna(value) else value for value in column.tolist()]
    assert not pa.types.is_dictionary(array.type)


def test_mixed_columns_are_told():
    assert to_arrow(pd.Series(["a", 1])) is None
    assert to_arrow(pd.Series([[1], [2]])) is None


@pytest.mark.parametrize(
    ("cells", "columns", "error"),
    [
        ([[5], [6, 99]], {}, r"dataset: Cell 1 holds the token 99, which the model does not know"),
        ([[5], list(range(2, 20))], {}, r"Cell 1 has 18 tokens, and the model takes 16: .* truncate=True"),
        ([[5], [6, 7, 6]], {}, r"Cell 1 holds the token 6 twice, .* drop_duplicates=True"),
        ([[5], [6, 7]], {"length": [1, 3]}, r"'length' of cell 1 is 3, but the cell has 2 tokens \(1 such cells\)"),
        ([[5], None], {"length": [1, 0]}, "the column 'input_ids' has no value for 1 cells. Leave these out"),
        ([[5], [6, None]], {"length": [1, 2]}, "the column 'input_ids' holds lists with missing values"),
        (["a b", "c"], {"length": [1, 1]}, "the column 'input_ids' must hold lists of whole numbers, and holds string"),
    ],
)
def test_faults_are_told(save, cells, columns, error):
    path = save(cells, **columns)
    with pytest.raises(DataError, match=error):
        list(TokenFile(path, PLAIN).blocks())


def test_long_cells_and_duplicates_are_mended_on_request(save):
    long = [2, *range(4, 24), 3]
    path = save([long, [2, 9, 8, 9, 3]])
    ended = make_vocabulary(special=True)
    file = TokenFile(path, ended, truncate=True, drop_duplicates=True)
    assert lists(file.rows(0, 2)) == [[2, *range(4, 18), 3], [2, 9, 8, 3]]
    with pytest.raises(DataError, match="twice"):
        TokenFile(path, ended, truncate=True).rows(0, 2)
    with pytest.raises(DataError, match="22 tokens"):
        TokenFile(path, ended, drop_duplicates=True).rows(0, 2)


def test_what_is_no_folder_of_tokens_is_told(save, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        TokenFile(tmp_path / "nothing", PLAIN)
    with pytest.raises(DataError, match=r"is no folder of tokens: there is no state.json in it. It must be one that"):
        TokenFile(tmp_path, PLAIN)
    datasets.DatasetDict(train=datasets.Dataset.from_dict({"a": [1]})).save_to_disk(tmp_path / "both")
    with pytest.raises(DataError, match=r"both holds several data sets; name one of them: .*both/train"):
        TokenFile(tmp_path / "both", PLAIN)
    with pytest.raises(DataError, match="has no column 'input_ids' with the tokens of each cell; the columns are: 'a'"):
        TokenFile(tmp_path / "both" / "train", PLAIN)
    path = save(CELLS)
    [data] = path.glob("*.arrow")
    data.write_bytes(b"version https://git-lfs")
    with pytest.raises(DataError, match=r"cannot be read: .*Is the folder complete?"):
        TokenFile(path, PLAIN)
    data.unlink()
    with pytest.raises(DataError, match=r"cannot be read: .*Is the folder complete?"):
        TokenFile(path, PLAIN)
    state = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(state | {"_indices_data_files": [{"filename": "indices.arrow"}]}))
    with pytest.raises(DataError, match=r"holds a selection of its rows. Load it with datasets, and save flatten_ind"):
        TokenFile(path, PLAIN)


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("scgeneformer._optional.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r'needs the library pyarrow.* pip install "scgeneformer\[datasets\]"'):
        TokenFile("cells.dataset", PLAIN)


def write(path, vocabulary, cells=CELLS):
    columns = {"obs_names": pa.array([f"cell{i}" for i in range(len(cells))])}
    return write_folder(path, [(0, Tokens.from_lists(cells))], columns, vocabulary, lambda n: None)


def test_what_is_written_is_what_datasets_reads(tmp_path):
    assert write(tmp_path / "a", PLAIN) == 3
    found = datasets.load_from_disk(tmp_path / "a")
    assert found.column_names == ["input_ids", "length", "obs_names"]
    assert found["input_ids"][:] == [cell for cell in CELLS if cell]
    assert found["length"][:] == [3, 2, 4]
    assert found["obs_names"][:] == ["cell0", "cell2", "cell3"]
    assert found.features["input_ids"].feature.dtype == "int32"
    mapped = found.map(lambda cell: {"n": len(cell["input_ids"])}).filter(lambda cell: cell["n"] > 2)
    assert mapped["n"][:] == [3, 4]


def test_no_description_stands_in_the_way_of_earlier_versions(tmp_path):
    """Since version 4 datasets writes the type "List", which those before refuse; the Arrow schema says it, too."""
    write(tmp_path / "a", PLAIN)
    assert json.loads((tmp_path / "a" / "dataset_info.json").read_text()) == {}
    assert b"huggingface" not in pa.ipc.open_stream(next((tmp_path / "a").glob("*.arrow"))).schema.metadata


def test_tokens_that_were_written_for_another_model_are_refused(tmp_path):
    write(tmp_path / "a", PLAIN)
    with pytest.raises(DataError, match=r"were written for a model with other genes or medians .* model='...'"):
        TokenFile(tmp_path / "a", make_vocabulary(seed=1))
    assert TokenFile(tmp_path / "a", make_vocabulary(input_size=8)).n_obs == 3


def test_nothing_is_left_of_a_folder_that_could_not_be_finished(tmp_path):
    write(tmp_path / "a", PLAIN)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}

    def blocks():
        yield 0, Tokens.from_lists(CELLS)
        raise RuntimeError("stop")

    columns = {"obs_names": pa.array(list("abcd"))}
    for name in ("a", "new"):
        with pytest.raises(RuntimeError, match="stop"):
            write_folder(tmp_path / name, blocks(), columns, PLAIN, lambda n: None)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


def test_a_folder_that_was_made_meanwhile_is_replaced_only_if_asked(tmp_path):
    target, columns = tmp_path / "a", {"obs_names": pa.array(["c0"])}

    def blocks():
        yield 0, Tokens.from_lists([[2, 5, 3]])
        target.mkdir(exist_ok=True)
        (target / "thesis.txt").touch()

    with pytest.raises(FileExistsError, match="a was made by another call or program in the meantime"):
        write_folder(target, blocks(), columns, PLAIN, lambda n: None)
    assert [path.name for path in target.iterdir()] == ["thesis.txt"]
    assert write_folder(target, blocks(), columns, PLAIN, lambda n: None, overwrite=True) == 1
    assert not (target / "thesis.txt").exists()


def test_models_of_two_time_points_are_refused(save):
    with pytest.raises(DataError, match=r"reads cells at 2 time points, and folders of tokens hold one. Give"):
        TokenFile(save(CELLS), reads_two_times(make_vocabulary(special=True)))
