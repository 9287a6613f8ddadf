"""What models share: their base classes, layers, losses, vectors, sequences, hyper-parameters, estimates."""
