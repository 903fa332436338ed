"""What a variant of a model must pass before it is used: quality, numbers, speed, stress."""
