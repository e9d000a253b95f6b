"""Predictors, one module each; see `nasplat.predictor` for the contract. `tabular` is what several share."""

from nasplat.registry import PREDICTORS

PREDICTORS.register("gradient_boosting", "nasplat.predictors.gradient_boosting:GradientBoosting")
PREDICTORS.register("graph_network", "nasplat.predictors.graph_network:GraphNetwork")
PREDICTORS.register("lightgbm", "nasplat.predictors.lightgbm:LightGBM")
PREDICTORS.register("random_forest", "nasplat.predictors.random_forest:RandomForest")
