"""The video editor: frames of a clip are the particles of one collaborative edit."""
