"""Networks of the methods, and the one door to the libraries that hold the others."""
