"""What the rest is built on: registration of operators, backends, checks, errors, private parts of torch."""
