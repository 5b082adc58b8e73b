"""Looking inside a run: replay, queries, edits, provenance and studies. Nothing is here yet."""
