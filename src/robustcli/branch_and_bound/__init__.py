"""Complete verification: branch and bound over ReLU signs, with bounds optimised in batches."""
