"""Checks of the sample part."""
