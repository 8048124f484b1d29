"""A finished run made fit to leave: bundles, and the network in the formats of other programs."""
