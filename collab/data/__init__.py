"""Local data files become examples: formats, splits, partition, federated preprocessing."""
