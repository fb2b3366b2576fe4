"""The tutorials: they show what they found, and run anew, without network, each within its time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("*.ipynb"))
SECONDS = 600  # of two processors that have other work, too; alone they take a sixth of it, beside six others half
MEGABYTES = 1.5

pytestmark = [
    pytest.mark.skipif(not TUTORIALS, reason="only the installed package is here"),
    pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem),
]


def outputs(tutorial: Path) -> list[dict]:
    """What all cells show."""
    cells = json.loads(tutorial.read_text(encoding="utf-8"))["cells"]
    return [output for cell in cells for output in cell.get("outputs", [])]


def test_a_tutorial_was_run_from_top_to_bottom(tutorial):
    cells = json.loads(tutorial.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert any("image/png" in output.get("data", {}) for output in outputs(tutorial))


def test_a_tutorial_shows_no_error_no_log_and_no_folder_of_the_machine_it_was_run_on(tutorial):
    kinds = {(output["output_type"], output.get("name")) for output in outputs(tutorial)}
    assert kinds <= {("stream", "stdout"), ("display_data", None), ("execute_result", None)}
    shown = [output.get("text") or output["data"] | {"image/png": ""} for output in outputs(tutorial)]
    text = json.dumps(shown)
    assert [folder for folder in ("/tmp", "/home", "/root", "/work", "/Users", "site-packages") if folder in text] == []


def test_a_tutorial_is_small(tutorial):
    assert tutorial.stat().st_size < MEGABYTES * 1e6


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # of the notebook client and its loop
def test_a_tutorial_runs_within_its_time_and_without_network(tutorial, tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat", reason='needs the extra "docs"')
    nbclient = pytest.importorskip("nbclient", reason='needs the extra "docs"')
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    start = time.monotonic()
    notebook = nbformat.read(tutorial, as_version=4)
    nbclient.NotebookClient(notebook, timeout=SECONDS, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert time.monotonic() - start < SECONDS
