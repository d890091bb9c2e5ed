"""Built-in model architectures. One file a model."""
