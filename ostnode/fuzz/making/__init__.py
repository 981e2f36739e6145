"""Makers of cases, one module for each layer, and the mutator of those that were interesting."""
