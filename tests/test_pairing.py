"""Opening and saving either half of a lesson's pair in JupyterLab changes no byte of either."""

import json
import os

import pytest
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from jupytext.sync_contentsmanager import build_sync_jupytext_contents_manager_class

from ci import sync
from tests.sample_course import make


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    root = tmp_path_factory.mktemp("course")
    make(root)
    assert sync.main([], root) == 0
    return root


def manager_at(root):
    manager = build_sync_jupytext_contents_manager_class(LargeFileManager)()
    manager.root_dir = str(root)
    return manager


def through_the_browser(content):
    """What JupyterLab sends back once a kernel has started: keys in its own order, the kernel's own names."""
    notebook = json.loads(json.dumps(content, sort_keys=True))
    notebook["metadata"]["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
    }
    for cell in notebook["cells"]:
        cell["metadata"].setdefault("tags", cell["metadata"].get("tags", []))
        cell["metadata"].pop("trusted", None)
        if not cell["metadata"]["tags"]:
            del cell["metadata"]["tags"]
    return notebook


@pytest.mark.parametrize(
    "half", ["chapters/01_autograd/01_sample.md", "solutions/01_autograd/01_sample.ipynb"]
)
@pytest.mark.parametrize("newer", ["chapters", "solutions"])
def test_open_and_save_change_no_byte(course, half, newer):
    pair = [course / "chapters/01_autograd/01_sample.md", course / "solutions/01_autograd/01_sample.ipynb"]
    for path in pair:
        late = path.parts[-3] == newer
        os.utime(path, (1_700_000_000 + 1000 * late,) * 2)
    before = [path.read_bytes() for path in pair]
    manager = manager_at(course)
    model = manager.get(half, type="notebook", content=True)
    manager.save(
        {"type": "notebook", "format": "json", "content": through_the_browser(model["content"])}, half
    )
    assert [path.read_bytes() for path in pair] == before
