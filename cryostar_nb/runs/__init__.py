"""A run folder, and what makes the training loop run on real machines."""
