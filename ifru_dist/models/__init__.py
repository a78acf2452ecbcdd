"""Scores, losses and initialisations of the embedding models."""
