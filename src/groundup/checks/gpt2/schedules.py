"""Checks for the lesson gpt2.schedules."""
