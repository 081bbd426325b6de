"""What a person may set: the environment, and files in YAML."""
