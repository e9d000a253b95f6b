"""Networks of residual dense blocks for super-resolution."""
