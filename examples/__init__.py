"""Small programs to try sniproxy with."""
