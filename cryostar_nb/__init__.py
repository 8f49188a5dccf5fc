"""Atomic-model heterogeneity analysis in cryo-EM: the projector, the losses, the model, and what is around them."""
