"""NASPlat: neural architecture search with plug-ins for spaces, strategies, benchmarks and predictors."""

__version__ = "0.1.0"
