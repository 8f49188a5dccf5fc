"""Verdicts of `check` on trainings that fail in known ways, and on sound ones.

    python benchmarks/check.py --work FOLDER

Each failure is made as in notebook 12, with that notebook's settings (adenylate kinase, 64 x 64
pixels of 2 Å, one Gaussian a residue, poses as given); sound runs have the default setting, that of
the spliceosome's rehearsal the one of `book/paper_runs.py`. A failure is caught where a symptom has
the name that is expected of it, or, where particles do not move, where no motion survives. The
cases of EXTERNAL need files that are not part of the project, and are found through
CRYOSTAR_EXTERNAL_DATA. What is done is kept in FOLDER and goes on from there; images and runs are
deleted at the end, unless `--keep`.
"""

import argparse
import dataclasses
import re
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, KINASE, RUVB, kept_cell, made_with, options_of
from scipy.spatial.transform import Rotation

import cryostar_nb as cs
from cryostar_nb.io.files import write_json, write_text
from cryostar_nb.io.stacks import write_stack
from cryostar_nb.io.trajectories import read_trajectory

sys.path.append(str(HERE.parent / "book"))
import make_spliceosome
from make_complex import MOTION, write_motion
from paper_runs import SYSTEMS
from provenance import provenance_of

OPEN = HERE.parent / "data" / "4ake.pdb"
COMMAND = "python benchmarks/check.py"
LID = (118, 160)  # residues of adenylate kinase's LID
BOX, PIXEL_SIZE = 64, 2.0
FAILING = {
    "density": "nodes",
    "poses": "given",
    "image_loss": "correlation",
    "radial_scale": False,
}
MISPLACED, PART = ("model offset", "model orientation", "reference misplaced"), "part misplaced"
EXPECTED: dict[str, tuple[str, ...]] = {
    "reference displaced by 10 Å": MISPLACED,
    "reference turned by 10°": MISPLACED,
    "domain turned by 90°": (PART,),
    "rotations transposed": ("transpose",),
    "origins with the wrong sign": ("origin sign",),
    "noise, loose restraints": (),  # no motion may survive
    "domain missing": ("part missing",),
    "restraints too strong": ("moves as a whole", PART),
    "restraints too weak": ("helices deformed",),
    "phase-flipped": ("phase flipped",),
}
REHEARSAL: dict[str, Any] = {  # of the preset `standard`, as in book/paper_runs.py
    "density": "nodes",
    "relaxation_percentile": 99.0,
    "initial_blur": 15.0,
    "elastic_between_chains": True,
    "final_elastic_weight": 0.1,
}
EXTERNAL = ("adenylate kinase, trajectory", "spliceosome, rehearsal")
SOUND = ("closed reference", "open reference", "7PBL, two modes", *EXTERNAL)


def particles_of(case: str, folder: Path, options: argparse.Namespace) -> Path:
    """The STAR file of a case, simulated."""
    if case == "spliceosome, rehearsal":
        model, meta = SYSTEMS["spliceosome"].files
        folder.mkdir(parents=True)
        make_spliceosome.main(model, meta, folder, options.particles, seed=options.seed)
        return folder / "particles.star"
    common: dict[str, Any] = {"start": KINASE, "end": OPEN, "out": folder, "seed": options.seed}
    common |= {"n_particles": options.particles, "box_size": BOX, "pixel_size": PIXEL_SIZE}
    if case == "noise, loose restraints":
        common |= {"n_particles": 3 * options.particles, "snr": 0.001, "states": 1}
    if case == "7PBL, two modes":
        folder.mkdir(parents=True)
        common |= {"pixel_size": 3.0} | write_motion(cs.read_structure(RUVB), MOTION, 50, folder)
        common.pop("end")
    if case == "adenylate kinase, trajectory":
        folder.mkdir(parents=True)
        files = dict(zip(("trajectory", "topology"), SYSTEMS["adk_dims"].files, strict=True))
        cs.write_structure(folder / "motion.pdb", read_trajectory(*files.values())[0])
        common |= {"start": folder / "motion.pdb"} | files
        common.pop("end")
    cs.simulate(**{"snr": 0.1} | common)
    return folder / "particles.star"


def with_fault(case: str, star: Path) -> Path:
    """The STAR file with the fault of a case, beside the right one."""
    particles, bad = cs.read_particles(star), star.parent / "bad.star"
    if case == "rotations transposed":
        turned = particles.rotations.mT.contiguous()
        cs.write_star(bad, dataclasses.replace(particles, rotations=turned))
    elif case == "origins with the wrong sign":
        generator = torch.Generator().manual_seed(1)
        shifts = 3 * torch.randn(len(particles), 2, generator=generator, dtype=torch.float64)
        written = _rewritten(particles, bad, partial(_shifted, shifts=shifts))
        cs.write_star(bad, dataclasses.replace(written, shifts=-shifts))
    elif case == "phase-flipped":
        cs.write_star(bad, _rewritten(particles, bad, _flipped))
    else:
        return star
    return bad


def _rewritten(particles: cs.Particles, star: Path, change: Any) -> cs.Particles:
    """The particles with images whose spectra were changed, in a stack of their own."""
    count, box, size = len(particles), particles.box_size, particles.pixel_size
    stack = star.with_suffix(".mrcs")
    frequencies = torch.meshgrid(
        torch.fft.fftfreq(box, size), torch.fft.rfftfreq(box, size), indexing="ij"
    )
    points = torch.stack(frequencies[::-1], dim=-1).flatten(0, 1).double()  # kx, ky

    def images() -> Any:
        for rows in torch.arange(count).split(200):
            spectra = torch.fft.rfft2(particles.images(rows.numpy()))
            factors = change(points, particles, rows).unflatten(1, spectra.shape[1:])
            yield torch.fft.irfft2(spectra * factors, s=(box, box)).float()

    write_stack(stack, (count, box, box), pixel_size=size, label="changed", batches=images())
    numbers = {"stack_of": np.zeros(count, dtype=np.int64), "image_in_stack": np.arange(count)}
    return dataclasses.replace(particles, stacks=(stack,), **numbers)


def _shifted(points: Any, _: cs.Particles, rows: Any, *, shifts: torch.Tensor) -> torch.Tensor:
    return torch.exp(-2j * torch.pi * (shifts[rows] @ points.mT))


def _flipped(points: Any, particles: cs.Particles, rows: Any) -> torch.Tensor:
    assert particles.ctf is not None
    return cs.contrast_transfer_function(points, particles.ctf[rows]).sign()


def reference_of(case: str, folder: Path) -> Path:
    """The reference of a case; one with a fault is written into the folder."""
    if case == "7PBL, two modes":
        return RUVB
    if case == "open reference":
        return OPEN
    if case in EXTERNAL:
        return folder / "motion.pdb"
    atoms, out = cs.read_structure(KINASE), folder / "bad.cif"
    lid = (atoms.residue_numbers >= LID[0]) & (atoms.residue_numbers <= LID[1])
    positions = atoms.positions.copy()
    if case == "reference displaced by 10 Å":
        positions += [10.0, 0.0, 0.0]
    elif case == "reference turned by 10°":
        positions = _turned(positions, 10)
    elif case == "domain turned by 90°":
        positions[lid] = _turned(positions[lid], 90)
    elif case == "domain missing":
        cs.write_structure(out, atoms[~lid])
        return out
    else:
        return KINASE
    cs.write_structure(out, atoms.with_positions(positions))
    return out


def _turned(positions: np.ndarray, degrees: float) -> np.ndarray:
    centre, turn = positions.mean(0), Rotation.from_euler("x", degrees, degrees=True)
    turned: np.ndarray = turn.apply(positions - centre) + centre
    return turned


def settings_of(case: str) -> dict[str, Any]:
    """The training settings of a case, beside those of all."""
    changes: dict[str, dict[str, Any]] = {
        "spliceosome, rehearsal": REHEARSAL,
        "restraints too strong": {"final_elastic_weight": 1.0, "relaxation_percentile": 100.0},
        "restraints too weak": {"method": "cont"},
        "noise, loose restraints": {"method": "cont", "kl_weight": 0.0},
    }
    return ({} if case in SOUND else FAILING) | changes.get(case, {})


def measure(case: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The verdict on a case."""
    shutil.rmtree(folder, ignore_errors=True)
    star = with_fault(case, particles_of(case, folder, options))
    began = time.perf_counter()
    low_pass = 3.0 * cs.read_particles(star).pixel_size
    run = cs.train(
        star,
        reference=reference_of(case, folder),
        out=folder / "run",
        steps=options.steps,
        low_pass=low_pass,
        **settings_of(case),
    )
    trained = time.perf_counter() - began
    found = run.check(trainings=not EXPECTED.get(case))
    seconds = {"train": trained, "check": time.perf_counter() - began - trained}
    names = [symptom.name for symptom in found.symptoms]
    motions = [dataclasses.asdict(motion) | {"doubts": motion.doubts} for motion in found.motions]
    survive = [motion for motion in found.motions if not motion.doubts]
    if case in SOUND:
        right = found.verdict == "sound"
    elif EXPECTED[case]:
        right = any(expected in name for name in names for expected in EXPECTED[case])
    else:
        right = not survive
    about = {"case": case, "symptoms": names, "motions": motions, "sound": found.verdict == "sound"}
    return about | {"right": right, "words": found.words(), "seconds": seconds}


def table(cells: list[dict[str, Any]]) -> str:
    """All numbers as Markdown."""
    right = sum(cell["right"] for cell in cells)
    lines = [
        f"{right} of {len(cells)} verdicts are right. {made_with(cells)}.",
        "",
        "| run | right | symptoms | motions, Å | training, check in s |",
        "| --- | --- | --- | --- | ---: |",
    ]
    for cell in cells:
        motions = "; ".join(
            f"{motion['extent']:.1f} ± {abs(motion['halves'][0] - motion['halves'][1]) / 2:.1f}"
            f" ({', '.join(motion['doubts']) or 'survives'})"
            for motion in cell["motions"]
        )
        seconds = f"{cell['seconds']['train']:.0f}, {cell['seconds']['check']:.0f}"
        lines.append(
            f"| {cell['case']} | {'yes' if cell['right'] else 'no'}"
            f" | {', '.join(cell['symptoms']) or 'none'} | {motions or 'not tried'} | {seconds} |"
        )
    return "\n".join([*lines, ""])


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = options_of(__doc__, "check")
    add, cases = parser.add_argument, (*EXPECTED, *SOUND)
    add("--cases", nargs="+", choices=cases, default=[c for c in cases if c not in EXTERNAL])
    add("--particles", type=int, default=4000)
    add("--steps", type=int, default=500)
    add("--seed", type=int, default=0)
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Make what is missing, and the table."""
    options, begin = parsed(words), partial(provenance_of, COMMAND)
    cells = []
    for case in options.cases:
        name = re.sub(r"\W+", "_", case, flags=re.ASCII)
        cells.append(kept_cell(name, options, partial(measure, case, options), begin))
    write_json(options.results / "check.json", {"cells": cells})
    write_text(options.results / "check.md", table(cells))


if __name__ == "__main__":
    main()
