"""Data with a known truth, and the limit that the noise sets."""
