"""Turns an existing launch of an engine into wish variables, on the controller and without running anything.

`shell`, `unit`, `containers` and `settings` read a source into launches; `judge` says of each flag and variable what
becomes of it; `wish` and `report` write the result. What is known of flags and variables stands in the catalogue.
"""
