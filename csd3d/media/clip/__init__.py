"""A clip as a file, or a folder of frames: probe, source, sink, frames, formats, output."""
