"""One file per dashboard: which rows, which panels, what each means to the one who reads it."""
