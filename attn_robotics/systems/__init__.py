"""Published systems, one folder each: network, algorithm, data, training, evaluation."""
