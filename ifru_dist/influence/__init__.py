"""The mathematics of a batch, on tensors behind a communicator; knows no Ray, Dask or file."""
