"""Evaluation: which network, points and question; one evaluator a command; the runner that answers them."""
