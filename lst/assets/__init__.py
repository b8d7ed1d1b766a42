"""Named models with cards, checksums and licences."""
