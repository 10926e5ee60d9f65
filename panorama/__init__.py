"""The panorama editor: overlapping windows of one wide picture are the particles. Not written yet."""
