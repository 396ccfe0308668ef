"""COLT, convex layerwise adversarial training (002): inside the zonotopes behind one ReLU after the other."""
