"""Search strategies, one module each; see `nasplat.strategy` for the contract."""

from nasplat.registry import STRATEGIES

STRATEGIES.register("asha", "nasplat.strategies.successive_halving:ASHA")
STRATEGIES.register("cars", "nasplat.strategies.cars:CARS")
STRATEGIES.register("credit_evolution", "nasplat.strategies.credit_evolution:CreditEvolution")
STRATEGIES.register("local_search", "nasplat.strategies.local_search:LocalSearch")
STRATEGIES.register("nsga2", "nasplat.strategies.nsga2:NSGA2")
STRATEGIES.register("predictor_guided", "nasplat.strategies.predictor_guided:PredictorGuided")
STRATEGIES.register("random_search", "nasplat.strategies.random_search:RandomSearch")
STRATEGIES.register("regularized_evolution", "nasplat.strategies.regularized_evolution:RegularizedEvolution")
STRATEGIES.register("successive_halving", "nasplat.strategies.successive_halving:SuccessiveHalving")
