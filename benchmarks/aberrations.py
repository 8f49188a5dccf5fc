"""What it costs to ignore that pixel sizes differ, and the aberrations that a CTF refinement finds.

    python benchmarks/aberrations.py --work FOLDER

Particles of adenylate kinase are simulated twice with the same poses, defocus and noise: as a
perfect microscope shows them, and in two optics groups whose pixel sizes are 1 % apart, with a
beam tilt, odd and even Zernike terms and a magnification matrix each. The default setting is
trained on the first; on the second as its STAR file says; and on the second without these columns,
all with one pixel size. Errors are those of particles that training has not seen, without
superposition. What is done is kept in FOLDER. Writes results/aberrations.json and aberrations.md.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import starfile
from common import HERE, KINASE, RESULTS, split

import cryostar_nb as cs
from cryostar_nb.io.files import write_json, write_text

sys.path.append(str(HERE.parent / "book"))
from provenance import provenance_of

COMMAND = "python benchmarks/aberrations.py"
OPEN = HERE.parent / "data" / "4ake.pdb"
# Sizes as CTF refinements of good microscopes give them: fractions of a mrad, some rad at the
# third and fourth order near 3 Å, and anisotropy of half a percent.
OPTICS = {
    "rlnImagePixelSize": [1.0, 1.01],
    "rlnBeamTiltX": [0.4, -0.2],
    "rlnBeamTiltY": [-0.3, 0.5],
    "rlnOddZernike": ["[0.2,-0.1,12,0,0,-8]", "[-0.1,0.3,-6,0,0,14]"],
    "rlnEvenZernike": ["[0,0,0,0,40,-15,0,20,-30]", "[0,0,0,0,-25,10,0,-20,45]"],
    "rlnMagMat00": [1.004, 0.997],
    "rlnMagMat01": [0.002, -0.003],
    "rlnMagMat10": [0.002, -0.003],
    "rlnMagMat11": [0.996, 1.003],
}


def with_optics(star: Path, out: Path, columns: dict[str, list[Any]] | None) -> Path:
    """The same particles in two optics groups, in turn, with these columns; or without them."""
    tables = starfile.read(star, always_dict=True)
    particles, optics = tables["particles"], tables["optics"].iloc[[0, 0]].reset_index(drop=True)
    optics["rlnOpticsGroup"], optics["rlnOpticsGroupName"] = [1, 2], ["first", "second"]
    if columns is None:
        optics["rlnImagePixelSize"] = 1.0
        optics = optics.drop(columns=[*OPTICS][1:], errors="ignore")
    else:
        optics = pd.concat(
            [optics.drop(columns="rlnImagePixelSize"), pd.DataFrame(columns)], axis=1
        )
        particles["rlnOpticsGroup"] = 1 + particles.index % 2
    starfile.write({"optics": optics, "particles": particles}, out)
    return out


def simulate(folder: Path, options: argparse.Namespace, poses: Path | None = None) -> Path:
    """Particles to train on and new ones, unless they are there; the STAR file of all."""
    star, count = folder / "particles.star", options.particles + options.new
    if not (folder / "done").exists():
        kinds = {"n_particles": count, "snr": options.snr, "seed": options.seed, "poses": poses}
        star = cs.simulate(start=KINASE, end=OPEN, out=folder, **kinds)
        split(star, options.particles, count)
        (folder / "done").touch()
    return star


def error(
    folder: Path, name: str, options: argparse.Namespace, suffix: str = ""
) -> dict[str, float]:
    """Errors of a run on new particles, in Å; trained unless it is there."""
    out = options.work / "runs" / name
    if not (out / "latents.npy").exists():
        trained = folder / f"trained{suffix}.star"
        cs.train(trained, reference=KINASE, out=out, steps=options.steps, seed=options.seed)
    score = cs.open_run(out).evaluate(folder / "new.npz", folder / f"new{suffix}.star").as_dict()
    return {"mean": score["rmsd_mean"], "most_open": score["rmsd_most_open"]}


def main() -> None:
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind)
    add = parser.add_argument
    add("--work", type=Path, required=True)
    add("--results", type=Path, default=RESULTS)
    add("--particles", type=int, default=6000)
    add("--new", type=int, default=1000)
    add("--steps", type=int, default=2500)
    add("--snr", type=float, default=0.1)
    add("--seed", type=int, default=0)
    options = parser.parse_args()
    perfect, bent = options.work / "perfect", options.work / "aberrated"
    star = simulate(perfect, options)
    poses = with_optics(star, options.work / "poses.star", OPTICS)
    simulate(bent, options, poses)
    for name in ("trained", "new"):
        with_optics(bent / f"{name}.star", bent / f"{name}_ignored.star", None)
    errors = {
        "perfect": error(perfect, "perfect", options),
        "followed": error(bent, "followed", options),
        "ignored": error(bent, "ignored", options, "_ignored"),
    }
    settings = {
        name: getattr(options, name) for name in ("particles", "new", "steps", "snr", "seed")
    }
    provenance = provenance_of(COMMAND)
    write_json(options.results / "aberrations.json", provenance | settings | {"errors": errors})
    lines = [
        f"{options.particles:,} particles to train on, {options.new:,} new ones,"
        f" SNR {options.snr:g}, {options.steps:,} steps; {provenance['machine']};"
        f" version {provenance['version']} ({provenance['commit']}), {provenance['date']}.",
        "",
        "| particles | error, Å | most open, Å |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {name} | {e['mean']:.3f} | {e['most_open']:.3f} |" for name, e in errors.items()]
    write_text(options.results / "aberrations.md", "\n".join([*lines, ""]))


if __name__ == "__main__":
    main()
