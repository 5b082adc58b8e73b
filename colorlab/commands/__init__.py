"""What the commands of the command line do, one module each; `colorlab.cli` parses and reports."""
