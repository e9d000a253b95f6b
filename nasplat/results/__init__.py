"""The trials of a run where people look: tables, data frames, Optuna studies, TensorBoard and MLflow."""
