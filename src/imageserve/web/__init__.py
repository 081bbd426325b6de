"""The web pod: takes pictures in over HTTP, queues them, waits, answers. Loads no TensorFlow."""
