"""The three lists of dependencies say the same, and what the project says of itself is there."""

import ast
import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import cryostar_nb

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cryostar_nb"
REQUIRED_BY_THE_USER = {
    "jupyterlab",
    "jupyter-book",
    "torch",
    "mrcfile",
    "starfile",
    "nglview",
    "py3dmol",
    "plotly",
    "mdtraj",
    "papermill",
}


def name_of(requirement):
    return re.sub(r"[-_.]+", "-", requirement).lower()


def pins(path):
    """Package to version for each `name==version` line of a file."""
    lines = re.findall(r"^\s*(?:- )?([A-Za-z0-9_.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {name_of(name): version for name, version in lines}


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def declared():
    project = pyproject()["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    return {
        name_of(requirement.name): requirement
        for group in groups
        for requirement in map(Requirement, group)
    }


def test_the_pinned_set_is_exactly_what_pyproject_declares():
    assert set(pins(ROOT / "requirements.txt")) == set(declared())


def test_every_pin_satisfies_its_declared_range():
    versions = pins(ROOT / "requirements.txt")
    outside = [
        str(requirement)
        for name, requirement in declared().items()
        if Version(versions[name]) not in requirement.specifier
    ]
    assert outside == []


def test_torch_has_a_floor_and_no_ceiling():
    assert {specifier.operator for specifier in declared()["torch"].specifier} == {">="}


def test_lazy_loader_keeps_a_function_from_being_hidden_by_its_module():
    """Before 0.6, `cs.normal_modes` is the module once anything has imported it."""
    assert "0.5" not in declared()["lazy-loader"].specifier


def test_conda_users_get_the_pinned_set():
    assert pins(ROOT / "environment.yml") == pins(ROOT / "requirements.txt")


def test_constraints_pin_nothing_twice():
    assert not set(pins(ROOT / "constraints.txt")) & set(pins(ROOT / "requirements.txt"))


def test_what_the_user_fixed_is_declared():
    assert set(declared()) >= REQUIRED_BY_THE_USER


@pytest.mark.parametrize(
    "name",
    [
        "book",
        "notebooks",
        "cryostar_nb",
        "data",
        "tests",
        "environment.yml",
        "_config.yml",
        "README.md",
    ],
)
def test_the_top_level_that_the_user_fixed_is_there(name):
    assert (ROOT / name).exists()


def test_the_version_stands_once_and_is_read_without_importing_the_package():
    settings = pyproject()
    assert settings["project"]["dynamic"] == ["version"] and "version" not in settings["project"]
    attribute = settings["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attribute == "cryostar_nb.__version__"
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assigned = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    assert ast.literal_eval(assigned["__version__"]) == cryostar_nb.__version__
    assert str(Version(cryostar_nb.__version__)) == cryostar_nb.__version__


def test_every_wing_and_every_file_beside_the_modules_is_installed():
    settings = pyproject()["tool"]["setuptools"]
    wings = [f"cryostar_nb.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(settings["packages"]) == sorted(["cryostar_nb", *wings])
    installed = {
        path for name in settings["package-data"]["cryostar_nb"] for path in PACKAGE.glob(name)
    }
    others = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".py"}
    assert {path for path in others if path.parent.name != "__pycache__"} == installed


def test_every_module_has_a_layer_and_a_place_in_the_reference():
    reference = runpy.run_path(str(ROOT / "book" / "make_reference.py"))
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    wings -= set(reference["ENTRANCES"])
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", *reference["ENTRANCES"]}
    layers = reference["layers"]()
    assert sorted(layers) == sorted(modules | wings)
    files = [path for part in reference["sections"]().values() for path in part]
    public = {path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py"}
    entrances = {
        path for path in public if {path.stem, path.parent.name} & set(reference["ENTRANCES"])
    }
    assert set(files) == public - entrances
    assert len(files) == len(set(files))
    assert set(reference["names_of_door"]()) == set(cryostar_nb.__all__)


def test_the_reference_holds_every_public_name():
    reference = runpy.run_path(str(ROOT / "book" / "make_reference.py"))
    page = reference["api_page"]()
    for name in ("make_images", "TrainConfig", "Run", "read_particles", "diagnose", "rmsd"):
        assert f"#### `{name}`\n" in page
    assert "@property\ndef metrics(self)" in page
    assert "**`Run.decode`**" in page and "* `steps`: `Count` = `12000`. Gradient" in page
    sections = re.findall(r"^## `cryostar_nb\.(\w+)`$", page, re.MULTILINE)
    wings = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(sections) == wings - set(reference["ENTRANCES"])
    assert page.index("## The core") < page.index(f"## `cryostar_nb.{sections[0]}`")


def test_the_shapes_that_signatures_state_are_checked_in_the_whole_package():
    options = pyproject()["tool"]["pytest"]["ini_options"]["addopts"]
    assert options == "--jaxtyping-packages=cryostar_nb,typechecker.check"


@pytest.mark.parametrize(
    ("address", "shown"), [("", False), ("https://example.org/someone/cryostar_nb", True)]
)
def test_the_pages_lead_to_colab_binder_and_the_repository_once_it_has_an_address(address, shown):
    """The theme fails on buttons that lead to a repository without an address."""
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    options = {"repository_url": address, "launch_buttons": dict(settings["launch_buttons"])}
    assert {"binderhub_url", "colab_url"} <= set(options["launch_buttons"])
    config = SimpleNamespace(html_theme_options=options)
    runpy.run_path(str(ROOT / "book" / "_ext" / "live_outputs.py"))["place_buttons"](None, config)
    assert (options["use_repository_button"], bool(options["launch_buttons"])) == (shown, shown)
