"""Checks for the lesson gpt2.attention."""
