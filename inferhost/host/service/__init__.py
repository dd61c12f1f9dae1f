"""The engines: started, proven, stopped, and somebody else's taken over and given back."""
