"""Training: the fit loop and its recipes."""
