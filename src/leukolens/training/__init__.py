"""Transfer learning in two phases: a head on frozen features, then fine-tuning of the whole network."""
