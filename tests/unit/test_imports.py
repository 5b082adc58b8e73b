"""The layers import one way, the core knows no widget and no plotting library, and importing does nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import colorlab
from colorlab.methods.folder import METHODS

PACKAGE = Path(colorlab.__file__).parent

# From the bottom up; a module imports modules of its own row and of the rows above it in this list.
LAYERS = (
    (
        "errors",
        "shapes",
        "color",
        "images",
        "strokes",
        "sketches",
        "conditioning",
        "settings",
        "data",
        "picture_codec",
        "atomic",
    ),
    ("eight_bit",),
    ("exhibits",),
    ("networks",),
    ("sampling",),
    ("mechanisms",),
    ("checkpoints",),
    ("methods",),
    ("runs",),
    ("inspection",),
    ("segmentation",),
    ("tuning",),
    ("registry",),
    ("colorizer",),
    ("video",),
    ("",),  # colorlab/__init__.py, the facade under its short name
    ("training",),
    ("evaluation",),
    ("plotting",),
    ("doctor", "commands", "cli", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
HEADLESS_ONLY = ("IPython", "ipywidgets", "ipycanvas", "traitlets", "matplotlib", "notebook", "ipykernel")
ON_USE_ONLY = ("imageio", "av")
MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def layer_of(module):
    """Return the layer's name of a dotted name such as "colorlab.runs.run"."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in RANK else ""


def imported_modules(path):
    """Return the dotted names that a file imports anywhere, those for the type checker alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            for alias in node.names:
                # `from colorlab import plotting` imports a module, `from colorlab.runs.run import Run` a name of one.
                yield f"{node.module}.{alias.name}" if node.module == "colorlab" else node.module


@pytest.mark.parametrize("name", [name for name in MODULES if name != "__init__.py"])
def test_a_module_imports_only_layers_above_it(name):
    own = name.split("/")[0].removesuffix(".py")
    assert own in RANK, f"{name} belongs to no layer; add it to the list"
    for module in imported_modules(PACKAGE / name):
        if module.split(".")[0] == "colorlab":
            assert RANK[layer_of(module)] <= RANK[own], f"{name} imports {module}"
        assert module.split(".")[0] not in HEADLESS_ONLY[:4], f"{name} imports {module}"


def test_the_layer_test_sees_a_wrong_import(tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "def f():\n    from colorlab.runs.run import Run\n    from colorlab import cli\n    return Run, cli\n"
    )
    assert [RANK[layer_of(module)] for module in imported_modules(path)] == [RANK["runs"], RANK["cli"]]
    assert RANK["runs"] > RANK["methods"]


def test_methods_never_import_each_other():
    files = {target.partition(":")[0] for target in METHODS.values()}
    for module in files:
        imported = set(imported_modules(PACKAGE.parent / f"{module.replace('.', '/')}.py"))
        assert not imported & (files - {module})


def run_python(code):
    """Run code in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing():
    loaded = run_python(
        "import sys, colorlab; print([m for m in ('torch', 'numpy', 'diffusers', 'PIL') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_importing_the_core_is_headless_and_does_nothing():
    code = f"""
import sys, threading, torch
state, threads = torch.random.get_rng_state(), torch.get_num_threads()
import colorlab, colorlab.colorizer, colorlab.methods.lcad, colorlab.methods.text_to_image
for name in colorlab.__all__:
    getattr(colorlab, name)
assert torch.equal(state, torch.random.get_rng_state()), "the random generator moved"
assert threads == torch.get_num_threads(), "the number of threads changed"
assert threading.active_count() == 1, threading.enumerate()
print([name for name in {HEADLESS_ONLY + ON_USE_ONLY} if name in sys.modules])
"""
    assert run_python(code) == "[]"


def test_every_public_name_exists_and_is_listed():
    for name in colorlab.__all__:
        assert getattr(colorlab, name) is not None
        assert name in dir(colorlab)
    assert colorlab.color is sys.modules["colorlab.color"]
    with pytest.raises(AttributeError, match="no attribute 'colour'"):
        colorlab.colour  # noqa: B018
