"""Atomic-model heterogeneity analysis in cryo-EM: the projector, the losses, the model, and what is around them."""

import os

# Threads that wait for each other spin for microseconds, then sleep. By default they spin for milliseconds: with two shared
# cores and one other busy program, a training step took 330 ms so, and 75 ms with this. It acts when torch is not yet imported.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
