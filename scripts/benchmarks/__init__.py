"""What the benchmarks measure on: pictures and clips of the world that no prior was trained on, with exact truth."""
