"""What makes, runs and checks the course; each module is run as `python -m ci.<name>`."""
