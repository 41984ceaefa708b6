"""Training a CPSL model: arguments, trainer, metrics, and what turns a dataset into batches."""
