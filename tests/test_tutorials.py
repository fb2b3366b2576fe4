"""The tutorials: they show what they found, and run anew, without network, each within its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.ipynb"))
SECONDS = 600  # of two processors that have other work, too; alone they take a sixth of it, beside six others half
MEGABYTES = 1.5
HERE = str(Path(__file__).parent)
BEGIN = "import os, sys; os.chdir({!r}); sys.path.append({!r}); import toys; toys.quick_umap()"
SHORTER = {
    "01_embed": {"pbmc68k()": "pbmc68k()[::3].copy()", "n_folds=5": "n_folds=2"},
    "02_genes": {"groups=kinds": "groups=kinds[:2]"},
    "03_perturb": {"sample=30": "sample=6", "n_exact=20, sample=36": "n_exact=4, sample=24"},
    "04_annotate": {"epochs=5": "epochs=1", "max_tokens=128": "max_tokens=48"},
    "05_out_of_core": {
        "np.log(120)": "np.log(30)",
        "range(20)": "range(2)",
        "8_192": "4_608",
        "6_144]": "4_096]",
        "draw(1_000)": "draw(100)",
    },
    "06_train_your_own": {
        "pbmc68k()": "pbmc68k()[::2].copy()",
        '"epochs": 5': '"epochs": 1',
        '"max_tokens": 96': '"max_tokens": 48',
    },
}

pytestmark = pytest.mark.skipif(not TUTORIALS, reason="only the installed package is here")
each = pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)


def outputs(tutorial: Path) -> list[dict]:
    """What all cells show."""
    cells = json.loads(tutorial.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


@each
def test_a_tutorial_was_run_from_top_to_bottom(tutorial):
    cells = json.loads(tutorial.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs(tutorial))


@each
def test_a_tutorial_shows_no_error_no_log_and_no_folder_of_the_machine_it_was_run_on(tutorial):
    kinds = {(output["output_type"], output.get("name")) for output in outputs(tutorial)}
    assert kinds <= {("stream", "stdout"), ("display_data", None), ("execute_result", None)}
    shown = [output.get("text") or output["data"] | {"image/png": ""} for output in outputs(tutorial)]
    text = json.dumps(shown)
    assert [folder for folder in ("/tmp", "/home", "/root", "/work", "/Users", "site-packages") if folder in text] == []


@each
def test_a_tutorial_is_small(tutorial):
    assert tutorial.stat().st_size < MEGABYTES * 1e6


def execute(notebook, folder: Path) -> None:
    """Run all cells, without network."""
    nbclient = pytest.importorskip("nbclient", reason='needs the extra "docs"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        resources = {"metadata": {"path": str(folder)}}
        nbclient.NotebookClient(notebook, timeout=SECONDS, resources=resources).execute()


def read(tutorial: Path):
    """The notebook."""
    return pytest.importorskip("nbformat", reason='needs the extra "docs"').read(tutorial, as_version=4)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the notebook client and its loop
@each
def test_a_tutorial_runs_within_its_time_and_without_network(tutorial, tmp_path):
    start = time.monotonic()
    execute(read(tutorial), tmp_path)
    assert time.monotonic() - start < SECONDS


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")
def test_tutorials_run_in_short(tmp_path):
    """With fewer cells and epochs, without the import of umap, one after the other in one process."""
    nbformat = pytest.importorskip("nbformat", reason='needs the extra "docs"')
    notebook = nbformat.v4.new_notebook()
    for tutorial in TUTORIALS:
        (folder := tmp_path / tutorial.stem).mkdir()
        notebook.cells += [nbformat.v4.new_code_cell(text) for text in ("%reset -f", BEGIN.format(str(folder), HERE))]
        notebook.cells += shortened(read(tutorial), SHORTER[tutorial.stem])
    execute(notebook, tmp_path)


def shortened(notebook, shorter: dict[str, str]) -> list:
    """Its code, each text replaced by another."""
    code = [cell for cell in notebook.cells if cell["cell_type"] == "code"]
    for text, other in shorter.items():
        found = [cell for cell in code if text in cell["source"]]
        assert found, f"{text} is not in the tutorial any more"
        for cell in found:
            cell["source"] = cell["source"].replace(text, other)
    return code
