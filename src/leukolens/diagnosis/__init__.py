"""Is this machine fit to run leukolens: packages, hardware, weights, disk."""
