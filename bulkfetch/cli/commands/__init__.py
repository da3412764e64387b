"""One file for each command: it offers the settings it uses, does one call, and returns an exit
code."""
