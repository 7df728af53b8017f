"""Preprocessing steps: each a frozen recipe, fitted on chunks of training rows, then called with values."""
