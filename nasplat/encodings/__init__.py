"""What predictors see of architectures."""
