"""The test bed: builds one Debian image from the machine's own package sources and runs it as throw-away hosts."""
