"""A predictor over HTTP."""
