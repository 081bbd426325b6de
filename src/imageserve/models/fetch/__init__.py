"""Model folders and weights from elsewhere, put in place whole and checked."""
