"""Predictors, one module each; see `nasplat.predictor` for the contract."""

from nasplat.registry import PREDICTORS

PREDICTORS.register("renas", "nasplat.predictors.renas:ReNAS")
