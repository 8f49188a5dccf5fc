"""The numbers of the example report, from the recorded runs of the book.

python book/project/example_numbers.py
"""

import json
from pathlib import Path

import pandas as pd

RESULTS = Path(__file__).parents[1] / "results"
PRESETS = ("standard", "paper")


def error(preset: str, seed: int, data: str = "") -> float:
    """Mean Cα error of a recorded run, in Å."""
    name = f"adk_linear_snr0.1{data}_closed_star_{preset}_seed{seed}.json"
    found: float = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rmsd_mean"]
    return found


def with_ratio(rows: dict[object, dict[str, float]]) -> pd.DataFrame:
    """A row for each training, with the ratio of its errors."""
    table = pd.DataFrame(rows).T
    table["paper / standard"] = table["paper"] / table["standard"]
    return table


def main() -> None:
    """Print them."""
    seeds = with_ratio(
        {seed: {preset: error(preset, seed) for preset in PRESETS} for seed in range(3)}
    )
    other = {"other particles": {preset: error(preset, 0, "_data1") for preset in PRESETS}}
    print(seeds.round(3))
    print(pd.DataFrame({"mean": seeds.mean(), "standard error": seeds.sem()}).round(3))
    print(with_ratio(other).round(3))


if __name__ == "__main__":
    main()
