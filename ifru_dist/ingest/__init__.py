"""Interaction logs become the data of a workspace; the only room that imports Dask."""
