"""Learning in the weights: training data, trainers, and the training of the embedded model."""
