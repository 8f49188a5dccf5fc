"""What the terminal shows of a command's result."""

import json
from typing import Any


def describe(command: Any, result: Any) -> str:
    """What the terminal shows of a command's result."""
    match type(command).__name__:
        case "Simulate":
            reference = ", reference.cif" if command.writes_reference else ""
            return f"wrote {result}, particles.mrcs{reference} and truth.npz"
        case "Info":
            from cryostar_nb.prepare.info import describe as as_lines

            return json.dumps(result) if command.json else as_lines(result)
        case "Preprocess":
            images = f"{result.box_size} pixels of {result.pixel_size:.5g} Å"
            names = f"{result.source} and {result.stacks[0].name}"
            return f"wrote {names}: {len(result):,} particles of {images}"
        case "Select":
            chosen, count, remark = result
            return f"wrote {command.out}: {chosen:,} of {count:,} particles; {remark}"
        case "Doctor":
            from cryostar_nb.pages.doctor_report import as_json, as_text

            values = as_json(result)
            return json.dumps(values, indent=2) if command.json else as_text(result, values)
        case "Dock":
            from cryostar_nb.doctor.placing import as_report

            return f"{as_report(result)}\nwrote {command.out}"
        case "Train":
            return f"trained; now try: cryostar-nb analyse {command.out}" if result else ""
        case "Infer":
            return "\n".join([f"wrote {result.folder / 'posterior.npz'}", *result.words()])
        case "Check":
            return "\n".join([*result.words(), f"open {result.folder / 'check.html'}"])
        case "Reconstruct":
            return f"{describe_maps(result)}\nwrote {len(result.maps)} maps to {result.folder}"
        case "Landscape":
            wrote = f"wrote {', '.join(result.files)} to {result.folder}"
            return "\n".join([*result.words(), wrote])
        case "Evaluate":
            wrote = f"\nwrote {command.run_folder / 'evaluation.json'}"
            return _table(result) + (wrote if command.particles is None else "")
    return f"open {result.resolve()}"


def _table(score: Any) -> str:
    """RMSD per state, beside doing nothing."""
    count = len(score.rmsd_per_state)
    lines = [f"{'Cα-RMSD to the truth (Å)':28s}{'this run':>18s}{'do nothing':>12s}"]
    for state in sorted({round(i * (count - 1) / 5) for i in range(6)}):
        mean, sd = score.rmsd_per_state[state], score.rmsd_std_per_state[state]
        idle = score.idle.rmsd_per_state[state]
        lines.append(f"{f'state {state + 1} of {count}':28s}{mean:9.2f} ± {sd:5.2f} {idle:12.2f}")
    idle = score.idle
    for name, value, beside in (
        ("all particles", score.rmsd_mean, idle.rmsd_mean),
        ("  by the part that is still", score.rmsd_in_gauge, idle.rmsd_in_gauge),
        ("  superposed one by one", score.rmsd_superposed, idle.rmsd_superposed),
    ):
        lines.append(f"{name:28s}{value:9.2f} {beside:20.2f}")
    if score.posterior is not None:
        lines += describe_posterior(score.posterior)
    if score.volumes is not None:
        lines += describe_volumes(score.volumes)
    lines.append(f"{'bond error (Å)':28s}{score.bond_error:9.3f}")
    told = {"poses given": score.pose_errors_given, "poses refined": score.pose_errors_refined}
    lines += [f"{name:28s}{describe_poses(errors)}" for name, errors in told.items() if errors]
    if score.n_junk:
        lines.append(f"{score.n_junk:,} images without a good particle are left out")
    return "\n".join(lines)


def describe_posterior(about: dict[str, Any]) -> list[str]:
    """How good posteriors are, in lines of the table."""
    lines = [f"{'posterior mean':28s}{about['rmsd_mean']:9.2f} ± {about['sd']:5.2f}"]
    levels = ", ".join(f"{level:.0%}" for level in about["levels"])
    for name, where in (("along", "along the motion"), ("residues", "residue by residue")):
        for shared, words in (("", ""), ("_with_shared", ", with shared errors")):
            if held := about.get(f"coverage_{name}{shared}"):
                parts = ", ".join(f"{part:.0%}" for part in held)
                lines.append(f"  {levels} intervals hold the truth {where}{words}: {parts}")
    return lines


def describe_volumes(about: dict[str, Any]) -> list[str]:
    """How alike densities are, by the measures of CryoBench, in lines of the table."""
    lines = [f"{'area under the FSC':28s}{about['fsc_auc_highest']:9.3f} at most"]
    for name, words in (("per_image", "  per image"), ("per_conformation", "  per conformation")):
        mean, sd = about[f"fsc_auc_{name}"], about[f"fsc_auc_{name}_sd"]
        idle = f"{about['fsc_auc_do_nothing']:12.3f}" if name == "per_conformation" else ""
        lines.append(f"{words:28s}{mean:9.3f} ± {sd:5.3f} {idle}".rstrip())
    parts = zip(about["neighbourhood_similarity"], about["neighbourhoods"], strict=True)
    shares = ", ".join(f"{found:.0%} (chance {part:.0%})" for found, part in parts)
    return [*lines, f"{'neighbours that are true':28s}  {shares}"]


def describe_poses(errors: dict[str, float]) -> str:
    """How wrong poses are, in words."""
    return f"off by {errors['rotation_error_deg']:.2f}° and {errors['shift_error']:.2f} Å rms"


def describe_maps(maps: Any) -> str:
    """The table of maps, as lines."""
    head = ("map", "particles", "half-maps", "model", "residues that disagree")
    lines = ["{:16s}{:>12s}{:>12s}{:>10s}{:>25s}".format(*head)]
    for one in maps.maps:
        halves, model = map(angstroms, (one.resolution, one.model_resolution))
        disagree = f"{len(one.disagreeing)} of {len(one.residues)}"
        lines.append(
            f"{one.name:16s}{one.particles:12,.0f}{halves:>12s}{model:>10s}{disagree:>25s}"
        )
    lines.append("resolution where the FSC of half-maps falls to 0.143, of model and map to 0.5")
    return "\n".join(lines)


def angstroms(value: float | None) -> str:
    """A resolution, in words."""
    return "none" if value is None else f"{value:.2f} Å"
