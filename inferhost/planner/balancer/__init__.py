"""What stands before the engines: members, time-outs, queue and priority classes, and the configuration's text."""
