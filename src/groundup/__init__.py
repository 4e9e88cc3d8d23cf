"""Deep Learning from the Ground Up."""
