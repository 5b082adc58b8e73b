"""Methods: each paper as one screen of wiring between networks, guidance and mechanisms; and model folders."""
