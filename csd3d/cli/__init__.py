"""The `csd3d` command: `main` chooses a command, each of the other modules is one. The only room that knows tyro, nerf
apart."""
