"""The model pod: takes batches, runs the model, finishes jobs."""
