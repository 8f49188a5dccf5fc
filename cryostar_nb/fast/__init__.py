"""The same mathematics, faster: loops compiled by Numba for a CPU and by Triton for a GPU."""
