"""Checks of the part gpt2."""
