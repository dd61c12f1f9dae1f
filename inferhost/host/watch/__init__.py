"""What happens without a person: at boot, every few minutes, and who else writes."""
