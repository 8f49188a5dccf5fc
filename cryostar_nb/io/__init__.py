"""Everything on disk, in and out."""
