"""Distributed recommendation unlearning by influence functions."""

__version__ = "0.1.0"
