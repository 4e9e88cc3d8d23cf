"""Whole training runs from the command line, made of what the lessons wrote: `groundup train`, `groundup sample`."""
