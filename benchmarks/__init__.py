"""Programs that measure the package, and the data generator that they and the demo use."""
