"""A trained model as one file that takes raw rows: preprocessing, network and the target's own terms together."""
