"""One hospital's side: the only code that opens patient files, and the one way out."""
