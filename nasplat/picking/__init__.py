"""Picking: which images of a pool belong to the task that a few labelled images show."""
