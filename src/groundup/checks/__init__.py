"""What each exercise is checked with: cases, oracles, properties and named mistakes."""
