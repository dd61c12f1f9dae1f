"""What was here before us, and how it is put back; one program at a time."""
