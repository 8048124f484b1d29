"""leukolens: train, compare and honestly evaluate image classifiers of leukemia cells."""
