"""Evaluation: which network, which points, which question; one evaluator a command; the runner that answers point by point."""
