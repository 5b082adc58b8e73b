"""What `make lab` installs is all that notebooks, the Studio and the commands that they name can ask for."""

import json
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDS = {
    "tune": r"\.tune\(|colorlab tune|Studio\(",
    "video": r"colorize_video|colorlab video",
    "eval": r"colorlab\.evaluation|lpips",
    "widgets": r"colorlab_widgets",
}
"""What asks for each extra, in the cells of a notebook. The Studio has a tab that tunes."""

pytestmark = pytest.mark.skipif(not (ROOT / "Makefile").is_file(), reason="only a checkout has a Makefile")


def installed_by_make_lab() -> set[str]:
    """The extras of `make lab`, and those that they contain."""
    line = re.search(r"^LAB_EXTRAS := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found, open_ones = set(), line[1].split(",")
    while open_ones:
        extra = open_ones.pop()
        found.add(extra)
        inner = [re.match(r"colorlab\[(.+)\]", requirement) for requirement in extras[extra]]
        open_ones += [name for match in inner if match for name in match[1].split(",")]
    return found


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_make_lab_installs_what_a_notebook_needs(path: Path) -> None:
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    needed = {extra for extra, pattern in NEEDS.items() if re.search(pattern, "\n".join(cells))}
    assert needed <= installed_by_make_lab()


def test_make_lab_installs_every_extra_that_an_error_names_but_for_training() -> None:
    code = [path.read_text() for folder in ("colorlab", "widgets") for path in (ROOT / folder).rglob("*.py")]
    named = set(re.findall(r"colorlab\[(\w+)\]", "\n".join(code)))
    assert {"tune", "video"} <= named
    assert named - {"train"} <= installed_by_make_lab()


def test_the_tests_install_what_the_lab_does() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    tested = re.match(r"colorlab\[(.+)\]", extras["test"][0])
    assert tested
    assert installed_by_make_lab() <= {*tested[1].split(","), "widgets"}
