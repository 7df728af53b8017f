"""Measurements that choose the batch, the micro-batch and the learning rate, and leave no trace in the run."""
