"""Checks for part 1, autograd."""
