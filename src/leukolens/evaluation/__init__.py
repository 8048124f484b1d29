"""Predictions in, metrics out: pure functions of arrays and tables that know no deep-learning framework."""
