"""Recipes: dataset x architecture x method x eps, as YAML files checked by one pydantic model. Imports no torch."""
