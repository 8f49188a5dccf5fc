"""Write the pages of the reference: `make book` runs this before jupyter-book.

`book/reference/api.md` comes from the docstrings of cryostar_nb, module by module in the order of its floors, and
`book/reference/command_line.md` from what `cryostar-nb ... --help` prints. Git ignores both.
"""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cryostar_nb"
OUT = ROOT / "book" / "reference"


def modules() -> list[str]:
    """The modules by floor, from the top; the command line has a page of its own."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ][0]["layers"]
    return [
        name.strip().removeprefix("cryostar_nb.")
        for layer in layers[1:]
        for name in layer.split("|")
    ]


def is_public(node: ast.AST) -> bool:
    """Whether a definition is for users: named without an underscore, and documented."""
    kinds = (ast.FunctionDef, ast.ClassDef)
    return (
        isinstance(node, kinds)
        and not node.name.startswith("_")
        and ast.get_docstring(node) is not None
    )


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """The first lines of a definition, up to its body, without decorators."""
    clone = type(node)(
        **{
            **{field: getattr(node, field) for field in node._fields},
            "body": [ast.Expr(ast.Constant(...))],
            "decorator_list": [],
        }
    )
    text = ast.unparse(ast.fix_missing_locations(clone)).rsplit(":", 1)[0]
    if len(text) > 88 and "(" in text:
        name, rest = text.split("(", 1)
        arguments, result = rest.rsplit(")", 1)
        parts = re.split(r", (?=[*\w]+(?:: |=|, |$)|\*, )", arguments)
        text = f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"
    return text


def fields(node: ast.ClassDef) -> list[str]:
    """The fields of a dataclass: name, type, default, and the words or the comment that go with each."""
    lines, source = [], (node.body if isinstance(node, ast.ClassDef) else [])
    for place, item in enumerate(source):
        if not isinstance(item, ast.AnnAssign) or not isinstance(item.target, ast.Name):
            continue
        following = source[place + 1] if place + 1 < len(source) else None
        words = (
            following.value.value
            if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
            else ""
        )
        default = f" = `{ast.unparse(item.value)}`" if item.value is not None else ""
        lines.append(
            f"* `{item.target.id}`: `{ast.unparse(item.annotation)}`{default}. {' '.join(str(words).split())}".rstrip(
                ". "
            )
            + "."
        )
    return lines


def describe(node: ast.FunctionDef | ast.ClassDef, level: str) -> list[str]:
    """Heading, signature, words, fields and public methods of a definition."""
    lines = [
        f"{level} `{node.name}`",
        "",
        "```python",
        signature(node),
        "```",
        "",
        ast.get_docstring(node) or "",
        "",
    ]
    if isinstance(node, ast.ClassDef):
        lines += [*fields(node), ""]
        for method in filter(is_public, node.body):
            assert isinstance(method, ast.FunctionDef)
            lines += [
                f"**`{node.name}.{method.name}`**",
                "",
                "```python",
                signature(method),
                "```",
                "",
                ast.get_docstring(method) or "",
                "",
            ]
    return lines


def api_page() -> str:
    """Every public function and class with its docstring."""
    lines = [
        "# API",
        "",
        "Every public name of `cryostar_nb`, from the docstrings. The order is that of the floors in {doc}`../how_it_works`.",
        "",
    ]
    for name in modules():
        tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
        definitions = [node for node in tree.body if is_public(node)]
        lines += [f"## `{name}`", "", ast.get_docstring(tree) or "", ""]
        for node in definitions:
            assert isinstance(node, ast.FunctionDef | ast.ClassDef)
            lines += describe(node, "###")
    return "\n".join(lines)


def help_of(*words: str) -> str:
    """What the command line says of itself, without colours, 80 columns wide, which fit a page."""
    environment = os.environ | {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "cryostar_nb", *words, "--help"]
    text = subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout
    return "\n".join(
        line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    ).strip()


def command_page() -> str:
    """The help of the program and of every subcommand."""
    first = help_of()
    names = re.search(r"\{([\w,-]+)\}", first)
    assert names is not None, "the help names no subcommands"
    lines = [
        "# Command line",
        "",
        "What `cryostar-nb --help` says, and that of each command.",
        "",
        "```text",
        first,
        "```",
        "",
    ]
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
