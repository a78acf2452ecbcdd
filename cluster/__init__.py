"""Deployment: a Ray cluster on one machine for tests and the demo, and the set-up of real nodes."""
