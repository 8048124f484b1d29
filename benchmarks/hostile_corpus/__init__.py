"""Inputs made to harm, each built by a script from a seed: nothing binary is kept in the repository."""
