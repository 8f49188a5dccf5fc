"""The three lists of dependencies say the same, and what the project promises about itself is there."""

import re
import runpy
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
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
    found = re.findall(r"^\s*(?:- )?([A-Za-z0-9_.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE)
    return {name_of(name): version for name, version in found}


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
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
