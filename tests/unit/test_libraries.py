import subprocess
import sys
from pathlib import Path

import pytest

from colorlab.networks import libraries

PRELUDE = """
import sys
import colorlab.networks.libraries as libraries
assert not {"diffusers", "transformers", "lpips", "torchvision"} & set(sys.modules), "importing is not lazy"
"""


def run_python(code: str, first_folder: Path | None = None) -> None:
    """Run code in a fresh interpreter, with a folder of fake packages before the installed ones."""
    path = f"import sys; sys.path.insert(0, {str(first_folder)!r})\n" if first_folder else ""
    result = subprocess.run([sys.executable, "-c", path + PRELUDE + code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def fake_torchvision(folder: Path, code: str) -> Path:
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code)
    return folder


def test_a_healthy_torchvision_is_left_alone(tmp_path):
    folder = fake_torchvision(tmp_path, "count = []\n")
    run_python(
        """
import torch, torchvision
before = dict(sys.modules)
assert libraries.repair_torchvision() is False
assert sys.modules["torchvision"] is torchvision is before["torchvision"]
assert not libraries._kept_libraries
assert not hasattr(torch.ops.torchvision, "nms")
""",
        folder,
    )


def test_a_torchvision_without_operators_is_repaired_once(tmp_path):
    error = "RuntimeError('operator torchvision::nms does not exist')"
    broken = f"import torch\nif not hasattr(torch.ops.torchvision, 'nms'):\n    raise {error}\n"
    folder = fake_torchvision(tmp_path, broken)
    run_python(
        """
assert libraries.repair_torchvision() is True
import torchvision
assert libraries.repair_torchvision() is False
assert len(libraries._kept_libraries) == 1
""",
        folder,
    )


def test_another_failure_of_torchvision_is_not_hidden(tmp_path):
    folder = fake_torchvision(tmp_path, "raise RuntimeError('something else')\n")
    run_python(
        """
try:
    libraries.repair_torchvision()
except RuntimeError as error:
    assert "something else" in str(error)
else:
    raise SystemExit("no error")
""",
        folder,
    )


def test_missing_libraries_are_named_with_the_way_to_get_them():
    run_python(
        """
from colorlab.errors import MissingExtraError
sys.modules["torchvision"] = None
assert libraries.repair_torchvision() is False
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "lpips":
            raise ModuleNotFoundError(f"No module named {name!r}", name="lpips")
sys.meta_path.insert(0, Hidden())
try:
    libraries.LPIPS
except MissingExtraError as error:
    assert "colorlab[eval]" in str(error)
else:
    raise SystemExit("no error")
"""
    )


@pytest.mark.parametrize("name", [name for name in libraries.__all__ if name != "repair_torchvision"])
def test_every_name_is_reachable(name):
    if name == "LPIPS":
        pytest.importorskip("lpips", reason="lpips is in the extra 'eval'")
    value = getattr(libraries, name)
    assert value.__name__ == name
    assert getattr(libraries, name) is value


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="Nothing"):
        libraries.Nothing  # noqa: B018
    assert not hasattr(libraries, "__wrapped__")
