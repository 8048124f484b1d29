"""Metrics in, figures and one HTML file out; no number is computed here."""
