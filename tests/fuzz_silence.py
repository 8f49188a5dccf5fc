"""Change one thing in sound files that has a meaning, and read them: `make fuzz-silence`.

    python tests/fuzz_silence.py [--changes 1000] [--seconds 300] [--seed 0] [--only WORDS]

Small random data sets are written by this package, starfile, mrcfile, NumPy and gemmi. What is read
must be the same particles, poses, CTFs and atoms as before (or those that the change says), or the
file must be refused. Problems that `info` lists count as said. All else is silently wrong: each is
printed with the command that repeats it, and the exit code is 1. The kinds of changes are in
`silence_kinds`; what each module leaves out, and why, stands at its top.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import silence_kinds

OUTCOMES = ("same", "refused", "said", "WRONG")


def try_kind(name: str, seed: int, keep: Path | None = None) -> tuple[str, str]:
    """One change of this kind: its outcome, one of `OUTCOMES`, and why."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if keep is None else keep
        try:
            return silence_kinds.KINDS[name](silence_kinds.Scene(folder, name, seed)).outcome()
        except Exception as error:  # a crash: `fuzz_readers` looks for them, and here it is one too
            return "WRONG", f"stops with {type(error).__name__}: {error}"


def table(counts: dict[str, Counter[str]]) -> str:
    """A line for each kind, and their sums."""
    width = max(map(len, counts))
    head = f"{'kind':{width}s}   tried    same refused    said  SILENTLY WRONG"
    total = sum(counts.values(), Counter())
    lines = [head]
    for name, count in [*counts.items(), ("all", total)]:
        numbers = "".join(f"{count[outcome] or '.':>8}" for outcome in OUTCOMES[:3])
        lines.append(f"{name:{width}s}{count.total():8d}{numbers}{count['WRONG'] or '.':>16}")
    return "\n".join(lines)


def main() -> None:
    """Try every kind in turn until there were enough changes or the time is over."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=300, help="each kind is tried once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="kinds with these words in their names")
    parser.add_argument("--keep", type=Path, help="folder for the files of a single change")
    options = parser.parse_args()
    names = sorted(name for name in silence_kinds.KINDS if options.only in name)
    names = [options.only] if options.only in names else names
    if options.keep:
        names, options.changes = names[:1], 1
        options.keep.mkdir(parents=True)
    if not names:
        sys.exit(f"no kind has {options.only!r} in its name")
    counts: dict[str, Counter[str]] = {name: Counter() for name in names}
    wrong: dict[str, tuple[int, str]] = {}
    end, done = time.monotonic() + options.seconds, 0
    while done < max(options.changes, len(names)):
        if done >= len(names) and time.monotonic() > end:
            break
        name, seed = names[done % len(names)], options.seed + done // len(names)
        outcome, why = try_kind(name, seed, options.keep)
        counts[name][outcome] += 1
        if outcome == "WRONG":
            wrong.setdefault(name, (seed, why))
        done += 1
    print(table(counts))
    for name, (seed, why) in wrong.items():
        print(f"\nSILENTLY WRONG: {name}: {why}")
        print(f'    python {sys.argv[0]} --only "{name}" --seed {seed} --keep FOLDER')
    silent = sum(count["WRONG"] for count in counts.values())
    if silent:
        sys.exit(f"\n{silent} of {done} changes, of {len(wrong)} of {len(names)} kinds, are wrong")
    print(f"\n{done} changes of {len(names)} kinds, none silently wrong")


if __name__ == "__main__":
    main()
