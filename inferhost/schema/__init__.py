"""The documents that cross a border: wish in, plan across, result back.

Shared by the planner (Python >= 3.11) and by the host program (Python >= 3.9), hence 3.9-clean and
standard library only. A document is read strictly: an unknown key, a missing key and a wrong type are
errors, and all errors of a document are reported at once.
"""
