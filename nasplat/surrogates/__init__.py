"""Learning from few measurements: models of the objectives, and what they are asked for."""
