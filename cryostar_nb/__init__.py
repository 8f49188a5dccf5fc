"""Atomic-model heterogeneity analysis in cryo-EM.

Every name below is documented where it stands; the first use imports it.
"""

import os

import lazy_loader

__version__ = "0.2.0"

# Threads that wait for each other spin for microseconds, then sleep. By default they spin for
# milliseconds: with two shared cores and one other busy program, a training step took 330 ms so,
# and 75 ms with this. It acts when torch is not yet imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["course", "doctor"],
    submod_attrs={
        "config": ["ModelConfig", "PRESETS", "TrainConfig"],
        "ctf": ["CTFParameters", "contrast_transfer_function"],
        "density": ["atom_density", "group_density", "model_density", "node_density"],
        "door": ["dock", "info", "preprocess", "reconstruct", "select", "simulate", "train"],
        "errors": ["InputError"],
        "fourier": ["Band", "shell_correlation", "shift_images"],
        "geometry": [
            "kabsch",
            "pair_distances",
            "random_rotations",
            "rmsd",
            "rotations_from_relion_angles",
            "superpose",
        ],
        "io.options": ["Reading"],
        "io.maps": ["read_map", "write_map"],
        "io.particles": ["Particles"],
        "io.reading": ["read_particles"],
        "io.star": ["write_star"],
        "io.structures": ["read_nodes", "read_structure", "write_structure"],
        "latents": ["latent_modes", "principal_components"],
        "losses": [
            "Restraints",
            "clash_loss",
            "continuity_loss",
            "correlation_loss",
            "elastic_network_loss",
            "kl_divergence",
            "relaxed_edges",
        ],
        "models": ["DeformationVAE"],
        "normal_modes": ["normal_modes"],
        "pages": ["plot", "view"],
        "projector": ["gaussian_density", "make_images", "project_band", "project_real"],
        "runs.folder": ["open_run"],
        "runs.run": ["Run"],
        "simulation.options": ["SimulationConfig"],
        "simulation.paths": ["linear_morph", "rigid_morph"],
        "structure": ["Structure", "bonds", "coarse_grain", "elastic_edges"],
    },
)
