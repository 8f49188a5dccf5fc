"""Put the viewers' JavaScript into book/_static, so that the built pages need no network.

`make book` runs this before jupyter-book. plotly.js comes from the installed plotly package and
3Dmol.js from cryostar_nb; git ignores both copies. No Python package of the book has MathJax, so
book/_static/mathjax is kept in git.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path

STATIC = Path(__file__).parent / "_static"
SOURCES = {
    "plotly.min.js": files("plotly") / "package_data" / "plotly.min.js",
    "3Dmol-min.js": files("cryostar_nb") / "assets" / "3Dmol-min.js",
}


def main() -> None:
    """Copy what is missing or has changed.

    An unchanged file keeps its date, so that no page is built again for it.
    """
    for name, source in SOURCES.items():
        target = STATIC / name
        with as_file(source) as path:
            if not target.exists() or target.read_bytes() != path.read_bytes():
                shutil.copyfile(path, target)
                print(f"book/_static/{name}")


if __name__ == "__main__":
    main()
