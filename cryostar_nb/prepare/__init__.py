"""Look at a data set, change it, choose from it."""
