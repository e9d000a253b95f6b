"""Predictors, one module each; see `nasplat.predictor`.

Several predictors share `tabular`, `ensembling` and `proxy_features`.
"""

from nasplat.registry import PREDICTORS

PREDICTORS.register("auto", "nasplat.predictors.auto:Auto")
PREDICTORS.register(
    "isotropic_gaussian_process",
    "nasplat.predictors.gaussian_process:IsotropicGaussianProcess",
    former="distance_process",
)
PREDICTORS.register("ensemble", "nasplat.predictors.ensemble:Ensemble")
PREDICTORS.register("gaussian_process", "nasplat.predictors.gaussian_process:GaussianProcess")
PREDICTORS.register("gradient_boosting", "nasplat.predictors.gradient_boosting:GradientBoosting")
PREDICTORS.register("graph_network", "nasplat.predictors.graph_network:GraphNetwork")
PREDICTORS.register("lightgbm", "nasplat.predictors.lightgbm:LightGBM")
PREDICTORS.register("random_forest", "nasplat.predictors.random_forest:RandomForest")
PREDICTORS.register("renas", "nasplat.predictors.renas:ReNAS")
