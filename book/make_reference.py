"""Write the pages of the reference: `make book` runs this before jupyter-book.

`book/reference/api.md` comes from the docstrings of cryostar_nb: the core first, then one section
for each wing, module by module. `book/reference/command_line.md` is what `cryostar-nb ... --help`
prints. Git ignores both.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cryostar_nb"
OUT = ROOT / "book" / "reference"
Definition = ast.FunctionDef | ast.ClassDef
ENTRANCES = ("__main__", "cli", "door", "commands")  # the page of the command line is theirs
SHOWN_DECORATORS = {"property", "cached_property", "classmethod", "staticmethod", "contextmanager"}
WIDTH = 88  # of code, in characters
ABOUT_API = """# API

Every public name of `cryostar_nb`, from the docstrings. {doc}`../how_it_works` is the guided tour.

`import cryostar_nb as cs` gives the names that a notebook needs: DOOR. The commands among them take
the settings of {doc}`command_line` as keywords: `cs.train(..., learning_rate=1e-4)` is
`cryostar-nb train ... --learning-rate 1e-4`.
"""
ABOUT_COMMANDS = """# Command line

What `cryostar-nb --help` says, and that of each command."""


def layers() -> list[str]:
    """Modules and wings from the lowest layer to the highest, but for the entrances."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    lines = tools["importlinter"]["contracts"][0]["layers"]
    names = [name for line in lines for name in re.findall(r"cryostar_nb\.(\w+)", line)]
    return [name for name in reversed(names) if name not in ENTRANCES]


def sections() -> dict[str, list[Path]]:
    """The files of the core (named "") and of each wing, in their order on the page."""
    core = [PACKAGE / f"{name}.py" for name in layers() if not (PACKAGE / name).is_dir()]
    wings = [name for name in layers() if (PACKAGE / name).is_dir()]
    files = {wing: sorted((PACKAGE / wing).glob("[!_]*.py")) for wing in wings}
    return {"": core} | files


def names_of_door() -> list[str]:
    """The names that `import cryostar_nb` gives, from its table."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.keywords)
    table = {str(entry.arg): ast.literal_eval(entry.value) for entry in call.keywords}
    names = [name for part in table["submod_attrs"].values() for name in part]
    return sorted([*table["submodules"], *names], key=str.lower)


def is_public(node: ast.AST) -> bool:
    """Whether a definition is for users: named without an underscore, and documented."""
    return (
        isinstance(node, Definition)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is not None
    )


def signature(node: Definition) -> str:
    """The first lines of a definition, up to its body, with the decorators that change its use."""
    shown = [mark for mark in node.decorator_list if ast.unparse(mark) in SHOWN_DECORATORS]
    parts = {field: getattr(node, field) for field in node._fields}
    parts |= {"body": [ast.Expr(ast.Constant(...))], "decorator_list": []}
    text = ast.unparse(ast.fix_missing_locations(type(node)(**parts))).rsplit(":", 1)[0]
    if len(text) > WIDTH and isinstance(node, ast.FunctionDef):
        result = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
        text = (
            f"def {node.name}(\n" + "".join(f"    {a},\n" for a in arguments(node)) + f"){result}"
        )
    return "\n".join([*(f"@{ast.unparse(mark)}" for mark in shown), text])


def arguments(node: ast.FunctionDef) -> list[str]:
    """The arguments of a function with types and defaults, one each, and the bare star."""
    given = node.args
    by_place = [*given.posonlyargs, *given.args]
    without = [None] * (len(by_place) - len(given.defaults))
    pairs = list(zip(by_place, [*without, *given.defaults], strict=True))
    by_name = list(zip(given.kwonlyargs, given.kw_defaults, strict=True))
    texts = [
        ast.unparse(name) + ("" if default is None else f" = {ast.unparse(default)}")
        for name, default in [*pairs, *by_name]
    ]
    if given.vararg is not None or by_name:
        star = "*" if given.vararg is None else f"*{ast.unparse(given.vararg)}"
        texts.insert(len(pairs), star)
    return texts if given.kwarg is None else [*texts, f"**{ast.unparse(given.kwarg)}"]


def fields(node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass: name, type, default and description of each."""
    lines = []
    for item, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        words = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            words = " ".join(str(following.value.value).split())
        default = "" if item.value is None else f" = `{ast.unparse(item.value)}`"
        line = f"* `{item.target.id}`: `{ast.unparse(item.annotation)}`{default}. {words}"
        lines.append(line.rstrip(". ") + ".")
    return lines


def describe(node: Definition) -> list[str]:
    """Signature, docstring, fields and public methods of a definition."""
    lines = ["", "```python", signature(node), "```", "", ast.get_docstring(node) or "", ""]
    if isinstance(node, ast.ClassDef):
        lines += [*fields(node), ""]
        for method in filter(is_public, node.body):
            assert isinstance(method, ast.FunctionDef)
            lines += [f"**`{node.name}.{method.name}`**", *describe(method)]
    return lines


def api_page() -> str:
    """Every public function and class with its docstring."""
    door = ", ".join(f"`{name}`" for name in names_of_door())
    lines = [ABOUT_API.replace("DOOR", door)]
    for wing, files in sections().items():
        introduction = ast.parse((PACKAGE / wing / "__init__.py").read_text(encoding="utf-8"))
        words = (
            (ast.get_docstring(introduction) or "") if wing else "The method, from latent to loss."
        )
        lines += [f"## `cryostar_nb.{wing}`" if wing else "## The core", "", words, ""]
        for path in files:
            tree = ast.parse(path.read_text(encoding="utf-8"))
            name = f"{wing}.{path.stem}".strip(".")
            lines += [f"### `{name}`", "", ast.get_docstring(tree) or "", ""]
            for node in filter(is_public, tree.body):
                assert isinstance(node, Definition)
                lines += [f"#### `{node.name}`", *describe(node)]
    return "\n".join(lines)


def help_of(*words: str) -> str:
    """What the command line says of itself, without colours, 80 columns wide, which fit a page."""
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "cryostar_nb", *words, "--help"]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    text = re.sub(r"\x1b\[[0-9;]*m", "", answer.stdout)
    return "\n".join(line.rstrip() for line in text.splitlines()).strip()


def command_page() -> str:
    """The help of the program and of every subcommand."""
    first = help_of()
    names = re.search(r"\{([\w,-]+)\}", first)
    assert names is not None, "the help names no subcommands"
    lines = [ABOUT_COMMANDS, "", "```text", first, "```", ""]
    for name in names.group(1).split(","):
        lines += [f"## `cryostar-nb {name}`", "", "```text", help_of(name), "```", ""]
    return "\n".join(lines)


def main() -> None:
    """Write both pages; an unchanged one keeps its date, so that it is not built again."""
    OUT.mkdir(exist_ok=True)
    for name, text in {"api.md": api_page(), "command_line.md": command_page()}.items():
        path = OUT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"book/reference/{name}")


if __name__ == "__main__":
    main()
