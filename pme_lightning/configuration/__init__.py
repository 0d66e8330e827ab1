"""One configuration from YAML files and the words of a command line: composed, checked, and built."""
