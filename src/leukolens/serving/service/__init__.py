"""`leukolens serve`: models behind an HTTP address; what it answers is what `leukolens predict` writes."""
