"""Networks: modules of our own, the names of inspectable places, and the hooks that read and change them."""
