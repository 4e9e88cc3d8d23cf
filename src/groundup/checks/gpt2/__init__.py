"""Checks for part 2, GPT-2."""
