"""Write what the book has from the doctor's code: `python book/make_troubleshooting.py`.

`troubleshooting.md`, from the advice and what it passes to `train`; and, in `doctor.md`, the table
of thresholds.
"""

import ast
import itertools
import re
import tempfile
from pathlib import Path

import torch

from cryostar_nb.doctor.docking import MIRROR, Placement
from cryostar_nb.doctor.hypotheses import Hypothesis, Origin, name_of, reference_at
from cryostar_nb.doctor.remedies import (
    ADVICE,
    corrected_placement,
    is_moved,
    needs_star,
    train_command,
    train_flags,
)
from cryostar_nb.io.options import Reading
from cryostar_nb.io.particles import Particles
from cryostar_nb.io.reading import read_particles

ROOT = Path(__file__).parent.parent
PAGE, DOCTOR = ROOT / "book" / "troubleshooting.md", ROOT / "book" / "doctor.md"

QUARTER_TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
EXAMPLES = [
    Hypothesis(),
    Hypothesis(contrast=-1),
    Hypothesis(ctf="off"),
    Hypothesis(ctf="negated"),
    Hypothesis(ctf="flipped"),
    Hypothesis(transpose=True),
    reference_at(Placement(MIRROR, torch.zeros(3)), torch.zeros(3)),
    Hypothesis(origin=Origin(-1)),
    Hypothesis(origin=Origin(unit="px")),
    Hypothesis(origin=Origin(off=True)),
    Hypothesis(origin=Origin(exchanged=True)),
    Hypothesis(scale=1.03),
    reference_at(Placement(torch.eye(3), torch.tensor([20.0, -10.0, 20.0])), torch.zeros(3)),
    reference_at(Placement(QUARTER_TURN, torch.zeros(3)), torch.zeros(3)),
]
HEAD = """# Troubleshooting

Training runs on wrong files too, and gives a wrong result. This page goes through everything that
the doctor knows: what one sees without it, what it says, and what `train` then gets. To find out
which it is:

```
cryostar-nb doctor particles.star --reference model.cif --out checked
```

Several faults at once have their names joined by `+`. The last line that the doctor prints is the
command to train with, with all of them mended; the commands below are for one fault alone, and
images beside their STAR file. {doc}`doctor` says how it decides. Files that cannot be read at all
get one line, which {doc}`bad_input` lists.
"""


def command(particles: Particles, hypothesis: Hypothesis, *, turn_poses: bool) -> str:
    """The command to train with, as the doctor says it."""
    star = needs_star(particles, hypothesis, turn_poses=turn_poses)
    model = is_moved(corrected_placement(hypothesis, turn_poses=turn_poses))
    files = (
        "checked/particles.star" if star else "particles.star",
        "checked/reference.cif" if model else "model.cif",
    )
    flags = [] if star else train_flags(particles, hypothesis, Reading(), None)
    flags += ["--invert"] * (star and hypothesis.contrast < 0)
    return train_command(*files, flags)


def section(name: str, commands: list[str]) -> str:
    """One verdict: what is seen, what is said, what to do."""
    advice = ADVICE[name]
    texts = (advice["seen"], f"{advice['meaning']} {advice['remedy']}")
    seen, said = (re.sub(r"(?<!`)--[a-z-]+", r"`\g<0>`", text) for text in texts)
    lines = [f"## `{name}`", f"**Seen.** {seen}", f"**The doctor says.** {said}"]
    lines.append("\n".join(["```", *commands, "```"]))
    return "\n" + "\n\n".join(lines) + "\n"


def page() -> str:
    """The text of the page."""
    from bad_inputs import write_sound_files

    with tempfile.TemporaryDirectory() as name:
        write_sound_files(Path(name))
        particles = read_particles(Path(name) / "particles.star")
    text = HEAD
    for hypothesis in EXAMPLES:
        ways = (True, False) if hypothesis.placement.mirrored else (False,)
        text += section(
            name_of(hypothesis.faults()),
            [command(particles, hypothesis, turn_poses=turn) for turn in ways],
        )
    more = "cryostar-nb doctor particles.star --reference model.cif --out checked"
    return text + section("undecided", [f"{more} --n-particles 5000"])


def thresholds() -> str:
    """The table of `cryostar_nb.doctor.thresholds`: each constant, and the words below it."""
    source = (ROOT / "cryostar_nb" / "doctor" / "thresholds.py").read_text(encoding="utf-8")
    rows = ["| name | value | unit | what it decides | where it comes from |", "|---" * 5 + "|"]
    body = ast.parse(source).body
    for constant, words in itertools.pairwise(body):
        if isinstance(constant, ast.Assign) and isinstance(words, ast.Expr):
            name, value = ast.unparse(constant.targets[0]), ast.unparse(constant.value)
            text = " ".join(ast.literal_eval(words.value).split())
            rows.append(f"| `{name}` | {value} | {text} |")
    return "\n".join(rows)


def doctor_page() -> str:
    """The text of `doctor.md` with this table between its marks."""
    begin, end = "<!-- thresholds -->\n", "\n<!-- end of thresholds -->"
    before, _, rest = DOCTOR.read_text(encoding="utf-8").partition(begin)
    return before + begin + thresholds() + end + rest.partition(end)[2]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    DOCTOR.write_text(doctor_page(), encoding="utf-8")
