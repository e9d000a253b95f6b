"""What people call from Python: searches, runs, predictors. The command line is a layer over it."""
