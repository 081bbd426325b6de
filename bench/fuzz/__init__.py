"""Random requests and pictures against a real web server: nothing may break, leak or hang."""
