"""Predictors, one module each; see `nasplat.predictor` for the contract. None is built in yet."""
