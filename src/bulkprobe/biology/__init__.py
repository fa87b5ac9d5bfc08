"""Do gene vectors know which genes belong together? Gene sets, paralogs, co-expression."""
