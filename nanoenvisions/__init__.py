"""What a reader of the five stages need not open: see "Where things are" in the README."""
