"""What is installed and usable on this machine: pure checks over facts that probes gather."""
