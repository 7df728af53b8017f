"""handful: mini-batch gradient descent for PyTorch, done properly."""

__version__ = "0.1.0"
