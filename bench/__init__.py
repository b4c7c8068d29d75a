"""Every figure the project claims, measured beside its peer in the same run."""
