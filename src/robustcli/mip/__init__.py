"""Exact verification by mixed-integer programming: encoding, formulations, solvers, witness replay, verdicts."""
