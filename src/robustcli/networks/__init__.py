"""Networks: the closed layer set, named architectures, checkpoints, published models."""
