"""Calibration: what may be believed of a network's confidence where it is used, by labels of a few pictures there."""
