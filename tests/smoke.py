"""Small values of each notebook's parameters, for the tests."""

SMOKE = {
    "00_tour": {"n_particles": 300, "steps": 30},
    "01_atoms_to_density": {"box_size": 96, "pixel_size": 1.0},
    "02_projection_and_ctf": {"seed": 2},
    "03_simulate_an_ensemble": {"n_particles": 40, "path_states": 5},
    "04_fit_one_structure": {"n_images": 40, "steps": 40},
    "05_restraints": {"n_images": 64, "n_states": 4, "steps": 20},
    "06_amortise": {"n_particles": 160, "steps": 10, "refine_steps": 5},
    "07_train_cryostar": {"n_particles": 300, "steps": 30},
    "08_baselines_and_interlock": {"n_particles": 200, "steps": 10},
    "09_two_modes": {"n_particles": 200, "steps": 10, "box_size": 48, "pixel_size": 4.0},
    "10_information_floor": {"n_particles": 12, "n_images": 600},
    "11_spliceosome": {"n_particles": 100, "steps": 4},
    "12_when_it_fails": {"n_particles": 400, "steps": 10, "n_noisy": 200},
    "13_does_the_paper_hold": {"n_nodes": 600},
    "14_real_particles": {"n_particles": 150, "steps": 10, "n_new": 60},
    "15_how_sure": {"n_particles": 120, "n_new": 40, "steps": 10, "n_draws": 300},
    "16_maps_and_bias": {"n_particles": 200, "steps": 10},
    "17_a_full_circle": {"n_particles": 120, "steps": 10},
}
