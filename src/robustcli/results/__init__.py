"""Results: a versioned schema, one append-only record a point, merging, tables and provenance. Imports no torch."""
